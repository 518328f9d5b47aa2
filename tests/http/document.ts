/** `openapi.yaml` as tests use it: its operations, and a validator that takes nothing that is not documented. */

import { assert } from "@std/assert";
import { parse } from "@std/yaml";
import { Ajv2020 } from "ajv/dist/2020.js";
import type { Answer } from "../support/door.ts";

export const text = await Deno.readTextFile(new URL("../../openapi.yaml", import.meta.url));
// deno-lint-ignore no-explicit-any -- a document is walked as it comes
export const document = parse(text) as any;

/** Each route, as `GET /pools/{pool}`, with what the document says of it. */
// deno-lint-ignore no-explicit-any -- as above
export const operations: [route: string, operation: any][] = [];
for (const [path, methods] of Object.entries<object>(document.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    operations.push([`${method.toUpperCase()} ${path}`, operation]);
  }
}

/** A validator of the document's schemas, which take nothing that is not documented. */
export function createValidator(): (pointer: string, value: unknown) => string[] {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  ajv.addFormat("uuid", /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  ajv.addFormat("date-time", /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
  ajv.addFormat("byte", /^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/);
  ajv.addFormat("binary", true);
  ajv.addSchema(close(document) as object, "openapi");
  const compiled = new Map<string, ReturnType<typeof ajv.compile>>();
  return (pointer, value) => {
    const validate = compiled.get(pointer) ?? ajv.compile({ $ref: `openapi#${pointer}` });
    compiled.set(pointer, validate);
    validate(value);
    return (validate.errors ?? []).map(({ instancePath, message, params }) =>
      `${instancePath} ${message} ${JSON.stringify(params)}`
    );
  };
}

/** The document, with every object schema closed to properties that it does not have. */
function close(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(close);
  if (typeof schema !== "object" || schema === null) return schema;
  const closed = Object.fromEntries(Object.entries(schema).map(([key, inner]) => [key, close(inner)]));
  return closed.type === "object" && "properties" in closed
    ? { ...closed, additionalProperties: false }
    : closed;
}

/** Where the document says what `route` answers with this status and type. */
export function pointerTo(route: string, { status, headers }: Answer): string {
  const [method, path] = route.split(" ");
  requireStatus(route, status);
  const { responses } = document.paths[path][method.toLowerCase()];
  const key = String(status) in responses ? String(status) : "default";
  const type = headers.get("content-type") ?? "";
  assert(type in responses[key].content, `${route} answered ${status} ${type}, which is not documented`);
  return toPointer(["paths", path, method.toLowerCase(), "responses", key, "content", type, "schema"]);
}

/** Fails unless the document has the status for `route`: a success by its number, a failure at least as any other. */
export function requireStatus(route: string, status: number): void {
  const [method, path] = route.split(" ");
  const { responses } = document.paths[path][method.toLowerCase()];
  assert(
    String(status) in responses || status >= 400,
    `${route} answered ${status}, which is not documented`,
  );
}

/** Where the document says what JSON `route` takes; nothing where it takes none. */
export function pointerToBody(route: string): string | undefined {
  const [method, path] = route.split(" ");
  const { requestBody } = document.paths[path][method.toLowerCase()];
  return requestBody?.content?.["application/json"] === undefined ? undefined : toPointer([
    "paths",
    path,
    method.toLowerCase(),
    "requestBody",
    "content",
    "application/json",
    "schema",
  ]);
}

function toPointer(parts: string[]): string {
  return parts.map((part) => `/${part.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}
