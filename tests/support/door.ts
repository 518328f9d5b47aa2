/**
 * The HTTP door on a test storage: a real server on a free port of this machine, and a way to call it.
 *
 * Whatever a test sends, the server may refuse it but never fail at it: a door that was told of a fault of the program
 * fails its test when it is disposed of.
 */

import { assertEquals } from "@std/assert";
import { HTTP_LIMITS, STORAGE_LIMITS } from "../../src/config.ts";
import type { StorageError } from "../../src/errors.ts";
import type { Client, HttpLimits, RequestRecord } from "../../src/http/door.ts";
import { Metrics } from "../../src/http/metrics.ts";
import { type HttpServer, serveHttp } from "../../src/http/server.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { authenticateAdmin } from "../../src/token.ts";
import { BLOCK_BYTES, createTestStorage, SEGMENT_BLOCKS, type TestStorage } from "./storage.ts";

export const DOOR_TOKEN = "door-token-0123456789";

/** How long a door that stops waits for what is in flight. */
const DRAIN_MS = 1_000;
/** How long an answer may take. */
const ANSWER_MS_MAX = 30_000;
/** How long a condition may take to come true. */
const WAIT_MS_MAX = 20_000;

/** What a request carries besides its path; at most one of `json`, `octets` and `text`. */
export interface CallOptions {
  readonly json?: unknown;
  readonly octets?: Uint8Array;
  /** A body as it stands, sent as JSON unless a header says otherwise. */
  readonly text?: string;
  readonly headers?: Record<string, string>;
  /** Another token than the right one; `null` for none. */
  readonly token?: string | null;
}

/** An answer; `body` is parsed JSON, octets, text, or undefined where there is none. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // deno-lint-ignore no-explicit-any -- what is in it is for the test to find out
  readonly body: any;
}

export interface TestDoor extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly system: TestStorage;
  /** One record for each request that was answered. */
  readonly requests: RequestRecord[];
  /** What the door was told of corrupt data; a test that has some takes it out. */
  readonly corrupt: StorageError[];
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** Stops the server, and leaves the storage alone. */
  stop(): Promise<void>;
}

export interface TestDoorOptions extends NonNullable<Parameters<typeof createTestStorage>[0]> {
  readonly http?: Partial<HttpLimits>;
  /** Origins whose pages may use the door. */
  readonly corsOrigins?: readonly string[];
  /** Milliseconds of the clock that limits in time go by. */
  readonly now?: () => number;
  /** Cache bound of pools that do not choose one. */
  readonly poolCacheBytesMax?: number;
}

/** Opens a door on a new test storage. */
export async function createTestDoor(options: TestDoorOptions = {}): Promise<TestDoor> {
  const { http, poolCacheBytesMax, now, corsOrigins, ...storageOptions } = options;
  const metrics = new Metrics();
  const system = await createTestStorage({ ...storageOptions, observer: metrics });
  const door = openTestDoor(
    system.storage,
    {
      blocksBytesMax: options.limits?.requestBytesMax ?? STORAGE_LIMITS.requestBytesMax,
      ...http,
    },
    poolCacheBytesMax,
    metrics,
    { ...(now === undefined ? {} : { now }), ...(corsOrigins === undefined ? {} : { corsOrigins }) },
  );
  return {
    ...door,
    system,
    [Symbol.asyncDispose]: async () => {
      try {
        await door[Symbol.asyncDispose]();
      } finally {
        await system[Symbol.asyncDispose]();
      }
    },
  };
}

/** Waits until `condition` holds, looking again and again; fails when that takes too long. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + WAIT_MS_MAX; !await condition();) {
    if (Date.now() > deadline) throw new Error(`Cannot wait any longer until ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Makes a pool of small blocks and segments, so that its sequences start at 1, with one device of `deviceBlocks`. */
export async function createTestPool(
  { call }: Pick<TestDoor, "call">,
  name: string,
  { deviceBlocks = 4_000, cacheBytesMax }: { deviceBlocks?: number; cacheBytesMax?: number } = {},
): Promise<{ poolId: string; deviceId: string }> {
  const shape = { blockSizeBytes: BLOCK_BYTES, segmentBlocks: SEGMENT_BLOCKS };
  const bound = cacheBytesMax === undefined ? {} : { cacheBytesMax };
  const pool = await call("POST", "/pools", { json: { name, ...shape, ...bound } });
  assertEquals(pool.status, 201);
  const device = { name: `${name}-1`, pool: name, blockCount: deviceBlocks };
  const added = await call("POST", "/devices", { json: device });
  assertEquals(added.status, 201);
  return { poolId: pool.body.id, deviceId: added.body.id };
}

/** Makes a volume of `blockCount` blocks, and answers its id. */
export async function createTestVolume(
  { call }: Pick<TestDoor, "call">,
  name: string,
  { pool = "main", blockCount = 64 }: { pool?: string; blockCount?: number } = {},
): Promise<string> {
  const created = await call("POST", "/volumes", { json: { name, pool, blockCount } });
  assertEquals(created.status, 201);
  return created.body.id;
}

/** Opens a door on a storage system that is somebody else's to close. */
export function openTestDoor(
  storage: Storage,
  limits: Partial<HttpLimits> = {},
  cacheBytesMax = 2 ** 30,
  metrics = new Metrics(),
  given: Pick<TestDoorOptions, "now" | "corsOrigins"> = {},
): Omit<TestDoor, "system"> {
  const requests: RequestRecord[] = [];
  const faults: unknown[] = [];
  const corrupt: StorageError[] = [];
  const server = serveHttp({
    storage,
    metrics,
    ...given,
    limits: { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax, ...limits },
    cacheBytesMax,
    authenticate: authenticateAdmin(DOOR_TOKEN) as (token: string) => Client | undefined,
    onRequest: (record) => requests.push(record),
    onFault: (error) => faults.push(error),
    onCorrupt: (error) => corrupt.push(error),
  }, { host: "127.0.0.1", port: 0 });
  const stop = once(() => server.stop(DRAIN_MS));
  return {
    url: server.url,
    port: Number(new URL(server.url).port),
    requests,
    corrupt,
    call: (method, path, callOptions = {}) => call(server, method, path, callOptions),
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
      assertEquals(faults, [], "the door was told of a fault of the program");
      assertEquals(corrupt, [], "the door was told of corrupt data");
    },
  };
}

async function call(
  { url }: HttpServer,
  method: string,
  path: string,
  { json, octets, text, headers, token = DOOR_TOKEN }: CallOptions,
): Promise<Answer> {
  const type = octets !== undefined
    ? "application/octet-stream"
    : json !== undefined || text !== undefined
    ? "application/json"
    : undefined;
  const body = octets ?? text ?? (json === undefined ? undefined : JSON.stringify(json));
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
      ...(type === undefined ? {} : { "content-type": type }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: body as BodyInit }),
    redirect: "manual",
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  return { status: response.status, headers: response.headers, body: await readBody(response) };
}

async function readBody(response: Response): Promise<unknown> {
  const bytes = await response.bytes();
  if (bytes.length === 0) return undefined;
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("application/octet-stream")) return bytes;
  const text = new TextDecoder().decode(bytes);
  return /^application\/(\w+\+)?json/.test(type) ? JSON.parse(text) : text;
}

function once(act: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => done ??= act();
}
