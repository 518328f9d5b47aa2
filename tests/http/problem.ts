/**
 * How the tests of the HTTP door demand a refusal: a whole problem document, and nothing stored.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { type Answer, type CallOptions, DOOR_TOKEN, type TestDoor } from "../support/door.ts";

/** What a refusal must be. */
export interface Refusal {
  readonly status: number;
  readonly code: string;
  /** The SCSI answer where there is one; absent demands that there is none. */
  readonly scsi?: ScsiAnswer;
  /** Headers that must be there, by name. */
  readonly headers?: Record<string, string>;
}

interface ScsiAnswer {
  readonly status: string;
  readonly senseKey?: number;
  readonly asc?: number;
  readonly ascq?: number;
}

/** CHECK CONDITION with sense key, additional sense code and its qualifier. */
export function sense(senseKey: number, asc: number, ascq: number): ScsiAnswer {
  return { status: "CHECK CONDITION", senseKey, asc, ascq };
}

export const LBA_OUT_OF_RANGE: Refusal = {
  status: 422,
  code: "lba-out-of-range",
  scsi: sense(0x5, 0x21, 0x00),
};
export const INVALID_FIELD_IN_CDB: Refusal = {
  status: 422,
  code: "cdb-field-invalid",
  scsi: sense(0x5, 0x24, 0x00),
};
export const TOO_LARGE: Refusal = { status: 413, code: "request-too-large", scsi: sense(0x5, 0x24, 0x00) };
export const INVALID_REQUEST: Refusal = { status: 400, code: "invalid-request" };
export const INVALID_ARGUMENT: Refusal = { status: 422, code: "invalid-argument" };
export const LIST_INVALID: Refusal = {
  status: 422,
  code: "parameter-list-invalid",
  scsi: sense(0x5, 0x26, 0x00),
};
export const VOLUME_NOT_FOUND: Refusal = {
  status: 404,
  code: "volume-not-found",
  scsi: sense(0x5, 0x25, 0x00),
};
export const NAME_TAKEN: Refusal = { status: 409, code: "name-taken", scsi: sense(0x5, 0x26, 0x00) };
export const UNAUTHORIZED: Refusal = {
  status: 401,
  code: "unauthorized",
  headers: { "www-authenticate": 'Bearer realm="snapmark"' },
};

const STATUSES_TO_RETRY = [429, 503];
const CODES_TO_RETRY = ["disk-full", "idempotency-key-in-progress"];
/** What must never be told: SQL, places in the program, the token. */
const SECRETS = new RegExp(`select |insert |postgres|drizzle|\\.ts\\b|/src/|node_modules|${DOOR_TOKEN}`, "i");

/** Asserts that `answer` is a whole problem document that says so. */
export function assertProblem(answer: Answer, { status, code, scsi, headers = {} }: Refusal): void {
  const { body } = answer;
  assertEquals({ status: answer.status, code: body?.code, scsi: body?.scsi }, { status, code, scsi });
  assertEquals(answer.headers.get("content-type"), "application/problem+json");
  assertEquals(body.type, `urn:snapmark:problem:${code}`);
  assertEquals(body.status, status);
  assertMatch(body.title, /^[A-Z].*[^.]$/);
  assertMatch(body.detail, /^(Cannot|The|There) .*[^.]$/);
  assertMatch(body.requestId, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/);
  assertEquals(answer.headers.get("x-request-id"), body.requestId);
  assertEquals(SECRETS.test(JSON.stringify(body)), false, `it tells too much: ${JSON.stringify(body)}`);
  const passes = STATUSES_TO_RETRY.includes(status) || CODES_TO_RETRY.includes(code);
  assertEquals(answer.headers.has("retry-after"), passes);
  for (const [name, value] of Object.entries(headers)) assertEquals(answer.headers.get(name), value);
}

/** Asserts that `act` leaves everything that is stored as it is, and the server at work. */
export async function assertNothingStored(door: TestDoor, act: () => Promise<void>): Promise<void> {
  const before = await readStored(door);
  await act();
  assertEquals(await readStored(door), before);
  assertEquals((await door.call("GET", "/pools/main")).status, 200);
}

/** How every pool stands, what there is in it, and how much was told of it. */
async function readStored({ system }: TestDoor): Promise<unknown> {
  const [row] = await system.test.database.$client`
    select (select json_agg(h order by pool_id) from pool_heads h) as heads,
      (select json_agg(t order by pool_id) from pool_tails t) as tails,
      (select json_agg(v order by volume_id) from volumes v) as volumes,
      (select json_agg(json_build_array(name, block_count, segments_touched - segments_returned) order by device_id)
        from devices) as devices,
      (select count(*) from cache) as cache, (select count(*) from segment_map) as segment_map,
      (select count(*) from snapshots) as snapshots, (select count(*) from timelines) as timelines,
      (select count(*) from labels) as labels, (select count(*) from clients) as clients, (select json_agg(s order by schedule_id) from schedules s) as schedules,
      (select count(*) from audit) as audit, (select count(*) from events) as events`;
  return { ...row };
}

/** Makes a test that demands that a request is refused so, and leaves nothing behind; the door is opened by then. */
export type Refuses = (
  what: string,
  request: [method: string, path: string, options?: CallOptions],
  refusal: Refusal,
) => void;

export function refusalsOf(door: () => TestDoor): Refuses {
  return (what, request, refusal) => {
    const [method, path] = request;
    const criterion = `refuses ${what} with ${refusal.status} ${refusal.code}`;
    Deno.test(`${method} ${path.slice(0, 60)} ${criterion}`, async () => {
      await assertNothingStored(door(), async () => assertProblem(await door().call(...request), refusal));
    });
  };
}
