/**
 * Bodies of answers, sent as fast as their client may receive. A small one is given to the platform, and forgotten: a socket's own
 * buffer takes it. A large one, and one that is read while it is sent, goes in pieces, each when the last one was taken; its request has
 * its place until it was sent.
 *
 * A client that takes nothing for {@linkcode HttpLimits.sendIdleMs} is cut off: what was read for it is given back. Its connection
 * ends when its own side does, for the platform, which then waits to write the last piece, has no way to end it (denoland/deno issue
 * 3515). So the piece is small, and the request goes on to count among its client's until then.
 */

import type { Place } from "./client_load.ts";
import type { Delivery, Door, DoorContext } from "./door.ts";

/** What is given to the platform at once: a piece, or an answer as a whole. */
const PIECE_BYTES = 64 * 1024;
/** What an answer takes that is read while it is sent. */
const STREAM_BYTES = 1024 * 1024;

/** What an answer is sent for. */
interface Sending {
  readonly door: Pick<Door, "timeLimits" | "limits" | "stopping">;
  readonly place: Place;
  readonly delivery: Delivery;
}

/** Tells whether an answer is given to the platform as a whole. */
export function isSentWhole(bytes: Uint8Array): boolean {
  return bytes.length <= PIECE_BYTES;
}

/** The body of a large answer. Its request must not leave its place: that is done here. */
export function sendLarge(sending: Sending, bytes: Uint8Array): ReadableStream<Uint8Array<ArrayBuffer>> {
  sending.place.hold(bytes.length);
  return send(sending, [bytes]);
}

/** The body of an answer that is read while it is sent. */
export function sendStream(
  c: DoorContext,
  door: Door,
  parts: AsyncIterable<Uint8Array>,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const place = c.get("place");
  place.hold(STREAM_BYTES);
  c.set("isSending", true);
  return send({ door, place, delivery: c.env }, parts);
}

function send(
  { door: { timeLimits, limits, stopping }, place, delivery }: Sending,
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const pieces = cut(parts);
  let wait = timeLimits.start(limits.sendIdleMs, () => {});
  const end = () => {
    timeLimits.end(wait);
    place.release();
    void pieces.return(undefined).catch(() => {});
  };
  void delivery.completed.then(() => place.leave(), () => place.leave()).finally(end);
  return new ReadableStream({
    async pull(controller) {
      timeLimits.end(wait);
      await place.outOfDebt(stopping);
      const { done, value } = await pieces.next();
      if (done) return controller.close();
      place.charge(value.length);
      wait = timeLimits.start(limits.sendIdleMs, () => {
        end();
        controller.error(new Deno.errors.TimedOut("Cannot send any further: the client takes nothing"));
      });
      controller.enqueue(value);
    },
    cancel: end,
  }, { highWaterMark: 0 });
}

/** In pieces that have their own memory: the platform may hold one for as long as the connection lasts. */
async function* cut(
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for await (const part of parts) {
    for (let at = 0; at < part.length; at += PIECE_BYTES) yield part.slice(at, at + PIECE_BYTES);
  }
}
