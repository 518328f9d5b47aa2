import { assertEquals } from "@std/assert";
import { type Rest, WorkLoop } from "../../src/storage/work_loop.ts";

/** Longer than any test: a rest that nobody ends. */
const FOR_EVER_MS = 3_600_000;

/** A loop whose rounds the test ends one by one, by saying how long to rest. */
function createLoop() {
  const faults: unknown[] = [];
  let begun = Promise.withResolvers<{ end: (rest: Rest) => void; fail: (error: unknown) => void }>();
  const loop = new WorkLoop(() => {
    const { promise, resolve, reject } = Promise.withResolvers<Rest>();
    begun.resolve({ end: resolve, fail: reject });
    return promise;
  }, { retryMs: FOR_EVER_MS, onFault: (error) => faults.push(error) });
  const nextRound = async () => {
    const round = await begun.promise;
    begun = Promise.withResolvers();
    return round;
  };
  return { loop, faults, nextRound, hasBegun: () => isSettled(begun.promise) };
}

async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol();
  await new Promise((resolve) => setTimeout(resolve, 0));
  return await Promise.race([promise, Promise.resolve(pending)]) !== pending;
}

Deno.test("a wake ends a rest, and one during a round keeps the rest from beginning", async () => {
  const { loop, nextRound, hasBegun } = createLoop();
  loop.start();
  (await nextRound()).end({ ms: FOR_EVER_MS });
  assertEquals(await hasBegun(), false);
  loop.wake();
  const round = await nextRound();
  loop.wake();
  round.end({ ms: FOR_EVER_MS });
  (await nextRound()).end({ ms: FOR_EVER_MS });
  await loop.stop();
});

Deno.test("a nudge ends the rest of an idle worker, and no other", async () => {
  const { loop, nextRound, hasBegun } = createLoop();
  loop.start();
  (await nextRound()).end({ ms: FOR_EVER_MS });
  loop.nudge();
  assertEquals(await hasBegun(), false);
  loop.wake();
  (await nextRound()).end({ ms: FOR_EVER_MS, idle: true });
  assertEquals(await hasBegun(), false);
  loop.nudge();
  const round = await nextRound();
  loop.nudge();
  round.end({ ms: FOR_EVER_MS, idle: true });
  (await nextRound()).end({ ms: 0 });
  (await nextRound()).end({ ms: 0 });
  await loop.stop();
});

Deno.test("a fault is told, and the loop goes on; stop() waits for the round in hand", async () => {
  const { loop, faults, nextRound, hasBegun } = createLoop();
  loop.start();
  (await nextRound()).fail("fault");
  assertEquals([await hasBegun(), faults], [false, ["fault"]]);
  loop.wake();
  const round = await nextRound();
  const stopped = loop.stop();
  assertEquals([await isSettled(stopped), loop.isStopping], [false, true]);
  round.end({ ms: FOR_EVER_MS });
  await stopped;
  assertEquals(await hasBegun(), false);
});
