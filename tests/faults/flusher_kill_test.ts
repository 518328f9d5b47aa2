/**
 * Invariant 6, the hard way: a flusher's process killed by SIGKILL between any two of its steps changes nothing that a
 * reader can see, and the next flusher does the work.
 */

import { assertEquals } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { fill, readStamps } from "../support/history.ts";
import { BLOCK_BYTES, createTestStorage, TESTER } from "../support/storage.ts";

const CHILD = fromFileUrl(new URL("./flusher_child.ts", import.meta.url));
const PERMISSIONS = ["net", "read", "write", "run", "env", "sys"].map((name) => `--allow-${name}`);

/** Runs the child until it kills itself. */
async function runKilledFlusher(url: string, point: string): Promise<Deno.Signal | null> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", ...PERMISSIONS, CHILD, url, point],
    stdout: "inherit",
    stderr: "inherit",
    signal: AbortSignal.timeout(60_000),
  });
  return (await child.output()).signal;
}

for (const point of ["locked", "chosen", "copied", "deleted", "sealed", "moved"]) {
  Deno.test(`a flusher killed after "${point}" leaves the contents as they were, and the next one seals`, async () => {
    await using test = await createTestStorage();
    const { storage } = test;
    await storage.createVolume(TESTER, { name: "v", blockCount: 40 });
    await storage.append(TESTER, "v", undefined, [{ lba: 0, data: fill(1, 40, BLOCK_BYTES) }]);
    await storage.takeSnapshot(
      TESTER,
      { volumes: ["v"], name: "s", untilSealed: false },
      AbortSignal.timeout(60_000),
    );
    await storage.append(TESTER, "v", undefined, [{ lba: 10, data: fill(500, 9, BLOCK_BYTES) }, {
      lba: 2,
      trim: 3,
    }]);
    const cut = Array.from({ length: 40 }, (_, i) => 1 + i);
    const live = cut.map((stamp, i) => i >= 10 && i < 19 ? 490 + i : i >= 2 && i < 5 ? 0 : stamp);
    const range = { lba: 0, blockCount: 40 };
    const verify = async () => {
      assertEquals(
        readStamps(await storage.readSnapshot("s", undefined, undefined, range), BLOCK_BYTES),
        cut,
      );
      assertEquals(readStamps(await storage.readVolume("v", undefined, range), BLOCK_BYTES), live);
    };
    assertEquals(await runKilledFlusher(test.test.url, point), "SIGKILL");
    await verify();
    assertEquals((await storage.getSnapshot("s")).status, "pending");
    await test.drain();
    await verify();
    assertEquals((await storage.getSnapshot("s")).status, "sealed");
    assertEquals((await storage.getPool("main")).dirtyEntries, 0);
  });
}
