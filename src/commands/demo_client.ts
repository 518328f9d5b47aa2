/**
 * A client of a Snapmark server, as the demo needs it: HTTP and a WebSocket, and nothing else.
 *
 * Each client has connections of its own. A write that is refused for a passing reason (503 with `Retry-After`, so
 * nothing was stored) is tried again; whatever else is no success is thrown as a sentence.
 */

import { z } from "zod";

/** Longest wait for one answer, and for the WebSocket to open. */
const ANSWER_MS_MAX = 30_000;
/** How often a request is tried. With the server's pauses of a second: as long as a full cache takes to make room. */
const ATTEMPTS_MAX = 10;
/** Longest pause that a server may ask for. */
const RETRY_SECONDS_MAX = 5;

const SUBPROTOCOL = "snapmark.v1";

const Volume = z.object({
  id: z.string(),
  name: z.string(),
  poolId: z.string(),
  blockSizeBytes: z.int().positive(),
  blockCount: z.int().positive(),
});
const Pool = z.object({ sequenceAppended: z.int(), sequenceFlushed: z.int() });
const Written = z.object({ sequence: z.int() });
const Progress = z.object({ entriesAhead: z.int(), bytesAhead: z.int(), etaSeconds: z.number().optional() });
const Snapshot = z.object({ id: z.string(), sequence: z.int(), progress: Progress });
const Problem = z.object({ detail: z.string() });
const Event = z.object({
  type: z.string(),
  snapshotId: z.string().optional(),
  data: z.object({ sequence: z.int().optional(), ...Progress.partial().shape }),
});

export type DemoVolume = z.output<typeof Volume>;
export type DemoSnapshot = z.output<typeof Snapshot>;
export type DemoEvent = z.output<typeof Event>;

/** Blocks `[lba, lba + blockCount)`. */
export interface Range {
  readonly lba: number;
  readonly blockCount: number;
}

export class DemoClient implements Disposable {
  readonly #http = Deno.createHttpClient({});

  /** @param url without a slash at its end. */
  constructor(private readonly server: { readonly url: string; readonly token: string }) {}

  /** Closes the client's connections. */
  [Symbol.dispose](): void {
    this.#http.close();
  }

  createVolume(name: string, sizeBytes: number, signal: AbortSignal): Promise<DemoVolume> {
    return this.#ask(Volume, "POST", "/volumes", signal, { json: { name, sizeBytes } });
  }

  async deleteVolume(volume: DemoVolume, signal: AbortSignal): Promise<void> {
    await this.#request("DELETE", `/volumes/${volume.id}`, signal);
  }

  getPool(poolId: string, signal: AbortSignal): Promise<z.output<typeof Pool>> {
    return this.#ask(Pool, "GET", `/pools/${poolId}`, signal);
  }

  /** Writes blocks and answers the write's sequence, once it is acknowledged. */
  async write(
    volume: DemoVolume,
    lba: number,
    octets: Uint8Array<ArrayBuffer>,
    signal: AbortSignal,
  ): Promise<number> {
    const path = `/volumes/${volume.id}/blocks/${lba}`;
    return (await this.#ask(Written, "PUT", path, signal, { octets })).sequence;
  }

  /** Takes a snapshot of the volume; answered as soon as its marker is committed. */
  takeSnapshot(volume: DemoVolume, name: string, signal: AbortSignal): Promise<DemoSnapshot> {
    return this.#ask(Snapshot, "POST", "/snapshots", signal, { json: { volumes: [volume.id], name } });
  }

  readVolume(volume: DemoVolume, range: Range, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    return this.#read(`/volumes/${volume.id}/blocks`, range, signal);
  }

  readSnapshot(snapshot: DemoSnapshot, range: Range, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    return this.#read(`/snapshots/${snapshot.id}/blocks`, range, signal);
  }

  /**
   * Follows what happens to the volume and its snapshots from now on. The stream fails when the socket closes, and closes
   * the socket when it is cancelled.
   */
  async followEvents(volume: DemoVolume, signal: AbortSignal): Promise<ReadableStream<DemoEvent>> {
    const url = new URL(`${this.server.url}/events?volume=${volume.id}`);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const token = new TextEncoder().encode(this.server.token)
      .toBase64({ alphabet: "base64url", omitPadding: true });
    const socket = new WebSocket(url, [SUBPROTOCOL, `snapmark.bearer.${token}`]);
    const events = toStream(socket, signal);
    await whenOpen(socket, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS_MAX)]));
    return events;
  }

  async #read(path: string, { lba, blockCount }: Range, signal: AbortSignal) {
    return (await this.#request("GET", `${path}/${lba}?count=${blockCount}`, signal)).bytes;
  }

  async #ask<T>(schema: z.ZodType<T>, method: string, path: string, signal: AbortSignal, body?: Body) {
    const answer = await this.#request(method, path, signal, body);
    const result = schema.safeParse(parseJson(answer));
    if (result.success) return result.data;
    throw new Error(
      `Cannot read the answer to ${method} ${path}: is there a Snapmark at ${this.server.url}?`,
    );
  }

  /** One request, tried again as long as the server says so; answers a success, or throws. */
  async #request(method: string, path: string, signal: AbortSignal, body?: Body): Promise<Answer> {
    for (let attempt = 1;; attempt++) {
      const answer = await this.#send(method, path, signal, body);
      const { status, retryAfterSeconds } = answer;
      if (status >= 200 && status < 300) return answer;
      if (status !== 503 || !(retryAfterSeconds > 0) || attempt === ATTEMPTS_MAX) {
        const { detail } = Problem.catch({ detail: "it gave no reason" }).parse(parseJson(answer));
        throw new Error(`The server refused ${method} ${path} with ${status}: ${detail}`);
      }
      await pause(Math.min(retryAfterSeconds, RETRY_SECONDS_MAX) * 1000, signal);
    }
  }

  async #send(method: string, path: string, signal: AbortSignal, body: Body = {}): Promise<Answer> {
    const overdue = AbortSignal.timeout(ANSWER_MS_MAX);
    const type = body.octets === undefined ? "application/json" : "application/octet-stream";
    try {
      const response = await fetch(this.server.url + path, {
        method,
        client: this.#http,
        signal: AbortSignal.any([signal, overdue]),
        headers: { authorization: `Bearer ${this.server.token}`, "content-type": type },
        body: body.octets ?? (body.json === undefined ? null : JSON.stringify(body.json)),
      });
      return {
        status: response.status,
        retryAfterSeconds: Number(response.headers.get("retry-after")),
        bytes: new Uint8Array(await response.arrayBuffer()),
      };
    } catch (cause) {
      signal.throwIfAborted();
      const why = overdue.aborted ? `no answer within ${ANSWER_MS_MAX} ms` : (cause as Error).message;
      throw new Error(`Cannot ${method} ${this.server.url}${path}: ${why}`, { cause });
    }
  }
}

/** An answer, read to its end. */
interface Answer {
  readonly status: number;
  /** Not a positive number when the server does not say. */
  readonly retryAfterSeconds: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

interface Body {
  readonly json?: unknown;
  readonly octets?: Uint8Array<ArrayBuffer>;
}

function parseJson({ bytes }: Answer): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return undefined;
  }
}

/** Waits `ms`, or until `signal` is aborted, and then throws its reason. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const end = () => resolve();
  signal.addEventListener("abort", end, { once: true });
  await promise;
  clearTimeout(timer);
  signal.removeEventListener("abort", end);
  signal.throwIfAborted();
}

function toStream(socket: WebSocket, signal: AbortSignal): ReadableStream<DemoEvent> {
  return new ReadableStream<DemoEvent>({
    start(controller) {
      const fail = (error: unknown) => {
        controller.error(error);
        socket.close();
      };
      socket.addEventListener("message", ({ data }) => {
        try {
          controller.enqueue(Event.parse(JSON.parse(data)));
        } catch (cause) {
          fail(new Error("Cannot read an event that the server sent", { cause }));
        }
      });
      socket.addEventListener("close", ({ code, reason }) => {
        fail(
          new Error(`Cannot follow the events: the WebSocket was closed with ${code} ${reason}`.trimEnd()),
        );
      });
      signal.addEventListener("abort", () => fail(signal.reason), { once: true });
    },
    cancel: () => socket.close(),
  });
}

async function whenOpen(socket: WebSocket, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const type of ["open", "close"]) socket.addEventListener(type, () => resolve(), { once: true });
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  if (socket.readyState === WebSocket.OPEN) return;
  socket.close();
  signal.throwIfAborted();
  throw new Error("Cannot follow the events: the server refused the WebSocket");
}
