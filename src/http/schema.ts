/**
 * Wire schemas that several resources share: references, sizes, pages, problem documents.
 */

import { z } from "@hono/zod-openapi";
import { NAME_PATTERN } from "../storage/identifier.ts";
import {
  LABEL_KEY_PATTERN,
  LABEL_VALUE_LENGTH_MAX,
  type LabelPatch,
  type Labels as StorageLabels,
} from "../storage/label.ts";
import type { Page, PageRequest } from "../storage/page.ts";
import type { HttpLimits } from "./door.ts";
import { HttpError } from "./errors.ts";

/** Of every whole number, which zod bounds alike: the largest that JSON carries exactly. */
const WHOLE = { maximum: Number.MAX_SAFE_INTEGER };

export const Id = z.uuid().openapi({
  description: "UUIDv7",
  example: "01a20573-4b9a-71ce-9029-d1d9944da612",
});
export const Name = z.string().min(1).max(63).openapi({
  description:
    "1 to 63 letters, digits, dots, underscores or hyphens, the first a letter or digit; not a UUID",
  example: "db-1",
});
/** An id or a name in a path or a body; what can be neither is refused before it is looked up. */
export const Reference = z.string().regex(NAME_PATTERN, "expected an id or a name").openapi({
  description: "Id or name",
});
export const Count = z.int().min(0).openapi(WHOLE);
export const Moment = z.iso.datetime().openapi({ example: "2026-11-22T22:49:31.905Z" });
/** Of contents. */
export const Digest = z.string().regex(/^[0-9a-f]{64}$/).openapi({
  description: "SHA-256 over chained SHA-256 of each MiB that is not all zeros, see README",
});

export const Sequence = Count.openapi({
  description: "A place in the pool's queue: strictly rising, without gaps, in commit order",
});
export const Lba = Count.openapi({ description: "Logical block address: index of a block in its volume" });

/** Items of one list in a body: above every bound of the storage system, which refuses the rest. */
const LIST_ITEMS_MAX = 4_096;

/** A list in a body. zod judges its length before its items: a body full of wrong ones must not cost seconds. */
export function listOf<T extends z.ZodType>(item: T) {
  return z.array(item).min(1).max(LIST_ITEMS_MAX);
}

/** Digits with an optional sign or fraction: judged by the storage system, so that each wrong one is answered alike. */
const numeral = z.string().regex(/^-?\d{1,30}(\.\d{1,30})?$/, "expected a number");

export const LbaParameter = numeral.transform(Number).openapi({
  type: "integer",
  minimum: 0,
  description: "First logical block address",
});
export const CountParameter = numeral.transform(Number).optional().openapi({
  type: "integer",
  minimum: 1,
  default: 1,
  description: "Number of blocks",
});

// Labels

/**
 * What a label is, as the document has it. Only the shape of a body is judged here, by one look: zod would leave a key named
 * `__proto__` out without a word.
 */
const LABELS = {
  type: "object",
  propertyNames: { type: "string", pattern: LABEL_KEY_PATTERN.source },
  additionalProperties: { type: "string", maxLength: LABEL_VALUE_LENGTH_MAX },
  example: { env: "prod" },
} as const;

export const Labels = z.custom<StorageLabels>(
  (value) => isObject(value) && Object.values(value).every((one) => typeof one === "string"),
  "expected an object of texts",
).openapi(LABELS);

export const LabelsPatch = z.custom<LabelPatch>(
  (value) =>
    value === null ||
    isObject(value) && Object.values(value).every((one) => one === null || typeof one === "string"),
  "expected an object of texts or null",
).openapi({
  ...LABELS,
  type: ["object", "null"],
  additionalProperties: { type: ["string", "null"], maxLength: LABEL_VALUE_LENGTH_MAX },
  description: "A JSON merge patch (RFC 7396): a text sets, null removes",
  example: { env: "test", old: null },
});

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `?label=`, any number of times. */
export const LabelQuery = z.strictObject({
  label: z.union([z.string(), z.array(z.string())]).transform((label) => [label].flat()).optional().openapi({
    type: "array",
    items: { type: "string" },
    description: "`key` or `key=value`; of several, all must match",
    example: ["env=prod"],
  }),
});

/** `?pool=`: where a name is looked for. Needed only when several pools use it. */
export const PoolQuery = z.strictObject({
  pool: Reference.optional().openapi({ description: "Pool to look the name up in; by default, all of them" }),
});

/** Of a route that takes no query: what it does not know is refused everywhere, not only in bodies. */
export const NoQuery = z.strictObject({});

/** A size, given as bytes or as blocks. */
export const SizeFields = {
  sizeBytes: z.int().min(1).optional().openapi({
    ...WHOLE,
    description: "A whole number of blocks, in bytes",
  }),
  blockCount: z.int().min(1).optional().openapi(WHOLE),
};

/** The one of the two size fields that was given. */
export function toSize(input: { sizeBytes?: number | undefined; blockCount?: number | undefined }) {
  if (input.sizeBytes !== undefined && input.blockCount === undefined) return { sizeBytes: input.sizeBytes };
  if (input.blockCount !== undefined && input.sizeBytes === undefined) {
    return { blockCount: input.blockCount };
  }
  throw new HttpError("invalid-request", "Cannot tell the size: expected either sizeBytes or blockCount");
}

/** The one that was given, or none. */
export function toOptionalSize(
  input: { sizeBytes?: number | undefined; blockCount?: number | undefined },
) {
  return input.sizeBytes === undefined && input.blockCount === undefined ? {} : toSize(input);
}

/** `input` without the properties that are undefined. */
export function given<T extends object>(input: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined)) as never;
}

// Pages

/** `?maxResults=&pageToken=`. */
export const PageQuery = z.strictObject({
  maxResults: z.string().regex(/^\d{1,9}$/, "expected a number").transform(Number).optional().openapi({
    type: "integer",
    minimum: 1,
    description: "Most items to answer",
  }),
  pageToken: z.string().min(1).max(256).optional().openapi({
    description: "nextPageToken of the page before",
  }),
});

/** A page of `items` under the resource's own name. */
export function pageOf<K extends string, T extends z.ZodType>(key: K, items: T) {
  const shape = {
    [key]: z.array(items),
    nextPageToken: z.string().optional().openapi({ description: "Absent on the last page" }),
  } as { [P in K]: z.ZodArray<T> } & { nextPageToken: z.ZodOptional<z.ZodString> };
  return z.object(shape);
}

/**
 * What a page query asks the storage system for.
 *
 * @param key what the list's keys look like: a token is only ever one of them.
 */
export function toPageRequest(
  query: z.output<typeof PageQuery>,
  limits: HttpLimits,
  key: RegExp,
): PageRequest {
  const itemsMax = query.maxResults ?? limits.pageItemsDefault;
  if (itemsMax < 1 || itemsMax > limits.pageItemsMax) {
    throw new HttpError(
      "invalid-request",
      `Cannot answer ${itemsMax} items: expected 1 to ${limits.pageItemsMax}`,
    );
  }
  return {
    itemsMax,
    ...(query.pageToken === undefined ? {} : { after: decodePageToken(query.pageToken, key) }),
  };
}

/** A page of `key`, with its token. */
export function toPageBody<K extends string, T, U>(key: K, page: Page<T>, toItem: (item: T) => U) {
  const body = {
    [key]: page.items.map(toItem),
    ...(page.next === undefined ? {} : { nextPageToken: encodePageToken(page.next) }),
  };
  return body as { [P in K]: U[] } & { nextPageToken?: string };
}

/** Keys of lists in order of creation. */
export const ID_KEY = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
/** Keys of lists by number. */
export const NUMBER_KEY = /^\d{1,16}$/;
/** Keys of a segment map: slot and epoch. */
export const SLOT_KEY = /^\d{1,16}\.\d{1,16}$/;

/** The token of a page that goes on behind `next`, if there is one. */
export function toPageToken(next: string | number | undefined): string | undefined {
  return next === undefined ? undefined : encodePageToken(String(next));
}

function encodePageToken(key: string): string {
  return new TextEncoder().encode(key).toBase64({ alphabet: "base64url", omitPadding: true });
}

function decodePageToken(token: string, key: RegExp): string {
  try {
    const text = new TextDecoder().decode(Uint8Array.fromBase64(token, { alphabet: "base64url" }));
    if (key.test(text)) return text;
  } catch {
    // Not base64url: refused below, like any other token that we did not give.
  }
  throw new HttpError("invalid-request", "Cannot go on from this pageToken: it is not one of this list's");
}

// Problems

export const ScsiAnswerBody = z.object({
  status: z.enum(["GOOD", "CHECK CONDITION", "BUSY", "TASK SET FULL", "RESERVATION CONFLICT"]),
  senseKey: z.int().optional(),
  asc: z.int().optional().openapi({ description: "Additional sense code" }),
  ascq: z.int().optional().openapi({ description: "Additional sense code qualifier" }),
}).openapi("ScsiAnswer");

/** RFC 9457. */
export const Problem = z.object({
  type: z.string().openapi({ example: "urn:snapmark:problem:lba-out-of-range" }),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string().openapi({ description: "Stable name of what went wrong", example: "lba-out-of-range" }),
  requestId: Id,
  scsi: ScsiAnswerBody.optional(),
  problems: z.array(z.object({ path: z.string(), message: z.string() })).optional().openapi({
    description: "What is wrong with which part of the request",
  }),
}).openapi("Problem");

/** The `default` response of every route. */
export const PROBLEM_RESPONSE = {
  description: "What went wrong, as a problem document",
  content: { "application/problem+json": { schema: Problem } },
} as const;

/** A JSON response. */
export function jsonResponse<T extends z.ZodType>(description: string, schema: T) {
  return { description, content: { "application/json": { schema } } };
}

/** A JSON request body. */
export function jsonBody<T extends z.ZodType>(schema: T) {
  return { body: { required: true, content: { "application/json": { schema } } } } as const;
}
