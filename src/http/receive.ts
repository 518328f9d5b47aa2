/**
 * Bodies of requests, received in time: one that is held whole within {@linkcode HttpLimits.receiveMs}, one that is streamed with no
 * pause longer than {@linkcode HttpLimits.receiveIdleMs}. So nobody keeps a place, or memory, by sending slowly (408
 * `body-too-slow`).
 *
 * What is left unread is read and thrown away by the platform, which closes the connection behind it.
 */

import { StorageError } from "../errors.ts";
import type { Place } from "./client_load.ts";
import type { Door, DoorContext } from "./door.ts";
import { HttpError } from "./errors.ts";

/**
 * A body that is read at once by the platform, which is fastest but cannot be broken off: a late one goes on to take so much
 * memory until its connection ends.
 */
const WHOLE_BYTES_MAX = 64 * 1024;
/** What a body that is streamed takes: a piece that is filled, and one that is written. */
const STREAM_BYTES = 2 * 1024 * 1024;

/**
 * Receives a body as a whole. A length that is told is judged before a byte is read; of a body without one, as it comes.
 *
 * @throws {StorageError} `request-too-large`, `too-many-at-once`, `too-busy`. @throws {HttpError} `incomplete-body`,
 * `body-too-slow`.
 */
export async function receiveWhole(
  door: Door,
  request: Request,
  place: Place,
  bytesMax: number,
): Promise<ArrayBuffer> {
  const told = request.headers.has("transfer-encoding") ? null : request.headers.get("content-length");
  const bytes = told === null ? bytesMax : Number(told);
  if (bytes > bytesMax) throw tooLarge(bytesMax);
  place.hold(bytes);
  if (told !== null) place.charge(bytes);
  const body = told !== null && bytes <= WHOLE_BYTES_MAX
    ? await receiveAtOnce(door, request)
    : await receiveInChunks(door, request, bytes, told !== null);
  if (told === null) place.charge(body.byteLength);
  return body;
}

function receiveAtOnce({ timeLimits, limits }: Door, request: Request): Promise<ArrayBuffer> {
  return new Promise((resolve, reject) => {
    const wait = timeLimits.start(limits.receiveMs, () => reject(tooSlow()));
    request.arrayBuffer().then(
      (body) => {
        timeLimits.end(wait);
        resolve(body);
      },
      () => {
        timeLimits.end(wait);
        reject(incomplete());
      },
    );
  });
}

async function receiveInChunks(
  { timeLimits, limits }: Door,
  request: Request,
  bytesMax: number,
  isTold: boolean,
): Promise<ArrayBuffer> {
  // Of a GET the platform throws it away.
  if (request.body === null) return new ArrayBuffer(0);
  const reader = request.body.getReader();
  const chunks: Uint8Array[] = [];
  let received = 0;
  let isLate = false;
  const wait = timeLimits.start(limits.receiveMs, () => {
    isLate = true;
    void leaveUnread(reader);
  });
  try {
    for (;;) {
      const { done, value } = await readChunk(reader);
      if (isLate) throw tooSlow();
      if (done) break;
      received += value.length;
      if (received > bytesMax) throw tooLarge(bytesMax);
      chunks.push(value);
    }
  } finally {
    timeLimits.end(wait);
    await leaveUnread(reader);
  }
  if (isTold && received < bytesMax) throw incomplete();
  return join(chunks, received);
}

/**
 * Receives a body that is streamed, chunk after chunk, as fast as its client may send.
 *
 * @throws {StorageError} `too-many-at-once`, `too-busy`. @throws {HttpError} `incomplete-body`, `body-too-slow`.
 */
export async function* receiveStream(
  c: DoorContext,
  { timeLimits, limits, stopping }: Door,
): AsyncGenerator<Uint8Array> {
  const place = c.get("place");
  place.hold(STREAM_BYTES);
  const reader = (c.req.raw.body ?? new Blob().stream()).getReader();
  let isLate = false;
  const onLate = () => {
    isLate = true;
    void leaveUnread(reader);
  };
  try {
    for (;;) {
      await place.outOfDebt(stopping);
      const wait = timeLimits.start(limits.receiveIdleMs, onLate);
      const { done, value } = await readChunk(reader).finally(() => timeLimits.end(wait));
      if (isLate) throw tooSlow();
      if (done) return;
      place.charge(value.length);
      yield value;
    }
  } finally {
    await leaveUnread(reader);
  }
}

type Reader = ReadableStreamDefaultReader<Uint8Array>;

async function readChunk(reader: Reader): Promise<ReadableStreamReadResult<Uint8Array>> {
  try {
    return await reader.read();
  } catch {
    throw incomplete();
  }
}

/** Has the platform throw away what may still come. */
async function leaveUnread(reader: Reader): Promise<void> {
  try {
    await reader.cancel();
  } catch {
    // It has ended by a fault of its own.
  }
}

function join(chunks: Uint8Array[], length: number): ArrayBuffer {
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes.buffer;
}

function tooLarge(bytesMax: number): StorageError {
  return new StorageError("request-too-large", `Cannot take this body: expected at most ${bytesMax} bytes`);
}

function incomplete(): HttpError {
  return new HttpError("incomplete-body", "Cannot read the body: it ended before it was complete");
}

function tooSlow(): HttpError {
  return new HttpError("body-too-slow", "Cannot wait for the body any longer: it comes too slowly");
}
