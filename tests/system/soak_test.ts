/** The soak in short: everybody at once, with a kill, and everything judged in the end. `deno task soak` is the long one. */

import { assert, assertEquals } from "@std/assert";
import { soak } from "../soak/soak_run.ts";
import { findGrowth, findTrends, type Sample } from "../soak/soak_samples.ts";

const SEED = 505;
const SECONDS = 20;
/** So few that each is written in several epochs, however slow the machine is. */
const VOLUME_BLOCKS = 32;
const KILL_EVERY_SECONDS = 12;
/** However long a busy machine takes to come to each. */
const DONE = [
  "writes",
  "snapshots",
  "snapshot blocks judged",
  "clones",
  "reverts",
  "events",
  "kills of PostgreSQL",
];

Deno.test(`${SECONDS} seconds of writers, snapshots, clones, reverts, copies and a kill are exact to the last block (seed ${SEED})`, async () => {
  const { counts, outcomes } = await soak({
    seconds: SECONDS,
    seed: SEED,
    volumeBlocks: VOLUME_BLOCKS,
    killEverySeconds: KILL_EVERY_SECONDS,
    killsMax: 1,
    atLeast: DONE,
    sampleEverySeconds: 5,
  });
  console.log(JSON.stringify({ counts, outcomes }));
  for (const what of DONE) assert(counts[what] > 0, `there were no ${what}`);
});

/** Samples of a run in which one figure grows by so much a sample. */
function samplesWith(growth: Partial<Sample>): Sample[] {
  return Array.from({ length: 100 }, (_, index) => {
    const base = {
      atSeconds: 0,
      memoryBytes: 200 * 2 ** 20,
      handles: 50,
      sessions: 15,
      bloat: 3,
      dataBytes: 0,
      reclaims: 0,
    };
    const grown = Object.entries(growth).map(([name, by]) => [name, base[name as keyof Sample] + by * index]);
    return { ...base, ...Object.fromEntries(grown) };
  });
}

Deno.test("findGrowth() finds what grows, and nothing where nothing does", () => {
  assertEquals(findGrowth(findTrends(samplesWith({}))), []);
  const growths = [{ memoryBytes: 3 * 2 ** 20 }, { handles: 1 }, { sessions: 0.2 }, { bloat: 0.1 }, {
    dataBytes: 2 ** 19,
  }];
  for (const growth of growths) {
    assertEquals(findGrowth(findTrends(samplesWith(growth))).length, 1, JSON.stringify(growth));
  }
});
