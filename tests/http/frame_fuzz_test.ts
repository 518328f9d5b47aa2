/**
 * Frames of a WebSocket as no client should send them: every operation code with every reserved bit, masked or not, too long, cut
 * short, in pieces, in any order, with any bytes. The server ends the connection or lets them pass; it goes on for everybody else,
 * and holds nothing of it afterwards.
 *
 * Source: RFC 6455, 5.2 to 5.5.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { createTestDoor, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { shakeHands, subscribe } from "../support/websocket.ts";

const SEED = 20_261_127;
/** Connections; each sends up to so many frames. */
const CONNECTIONS = 150;
const FRAMES_MAX = 6;

interface BadFrame {
  readonly final: boolean;
  readonly reserved: number;
  readonly opcode: number;
  readonly masked: boolean;
  readonly payload: Uint8Array;
  /** What the frame says of its length, where that is not so. */
  readonly told?: bigint;
  /** Where it breaks off, as a share of its bytes. */
  readonly cut?: number;
}

const TEXTS = ["", "{}", "subscribe", "\u0000", "💾".repeat(40)].map((text) =>
  new TextEncoder().encode(text)
);

const frame: fc.Arbitrary<BadFrame> = fc.record({
  final: fc.boolean(),
  reserved: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 7 })),
  opcode: fc.integer({ min: 0, max: 15 }),
  masked: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, fc.constant(false)),
  payload: fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.constantFrom(...TEXTS),
    fc.constant(new Uint8Array(70_000)),
  ),
  told: fc.option(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { nil: undefined, freq: 5 }),
  cut: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined, freq: 5 }),
}) as fc.Arbitrary<BadFrame>;

function encode({ final, reserved, opcode, masked, payload, told, cut }: BadFrame): Uint8Array {
  const length = told ?? BigInt(payload.length);
  const [short, extra] = length < 126n ? [Number(length), 0] : length < 65_536n ? [126, 2] : [127, 8];
  const head = new Uint8Array(2 + extra + (masked ? 4 : 0));
  head[0] = (final ? 0x80 : 0) | reserved << 4 | opcode;
  head[1] = (masked ? 0x80 : 0) | short;
  const view = new DataView(head.buffer);
  if (extra === 2) view.setUint16(2, Number(length));
  if (extra === 8) view.setBigUint64(2, length);
  // A mask of zeros leaves the payload as it is.
  const whole = new Uint8Array([...head, ...payload]);
  return cut === undefined ? whole : whole.subarray(0, Math.floor(whole.length * cut));
}

/** Sends frames behind a handshake, and leaves, with a word or without one. */
async function sendFrames({ port }: TestDoor, frames: readonly BadFrame[]): Promise<void> {
  using handshake = await shakeHands({ port });
  assertEquals(handshake.status, 101);
  for (const one of frames) {
    try {
      await handshake.write(encode(one));
    } catch {
      // The server has ended it: so it may.
      return;
    }
  }
}

Deno.test(`a subscriber that sends any frames at all ends nobody but itself (seed ${SEED})`, async () => {
  await using door = await createTestDoor();
  let sent = 0;
  const opcodes = new Set<number>();
  using other = await subscribe(door);
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { minLength: 1, maxLength: FRAMES_MAX }), async (frames) => {
      await sendFrames(door, frames);
      sent += frames.length;
      for (const { opcode } of frames) opcodes.add(opcode);
    }),
    { seed: SEED, numRuns: CONNECTIONS, endOnFailure: true },
  );
  assertEquals(opcodes.size, 16);
  // Who behaves has noticed nothing.
  await createTestVolume(door, "v");
  const events = await other.take(1);
  assert(events.some(({ type }) => type === "volume.created"));
  other.close();
  await until(async () => await countSubscribers(door) === 0);
  assertEquals((await door.call("GET", "/health/ready")).status, 200);
  console.log(`${sent} frames over ${CONNECTIONS} connections`);
});

async function countSubscribers({ call }: TestDoor): Promise<number> {
  const { body } = await call("GET", "/metrics");
  return Number(/^snapmark_websockets_open (\d+)$/m.exec(body)?.[1]);
}
