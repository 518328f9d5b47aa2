/**
 * SIGKILL of server, worker, PostgreSQL, or all at once, before and behind the statements of every transaction that writes, and at random
 * moments amid load: whatever was answered is there, nothing else is, and everything goes on ({@linkcode LedgerCheck}).
 *
 * A sample, chosen by a seed that is printed; `KILL_SEED` gives one again. `deno task soak-kills` goes through all of them.
 */

import { assert, assertEquals } from "@std/assert";
import { below, seeded } from "../support/history.ts";
import { chooseSeed, KillRun, type PlannedKill, sampleKills } from "./kill_run.ts";

/** What has to be met takes as long as it takes; further kills follow for so long. */
const TOGETHER_MS = 30_000;
const TOGETHER_PHASES = 6;
/** What a worker of its own does, and the server beside it. */
const APART_PHASES = ["append", "flush", "seal", "reclaim"];
const RANDOM_ROUNDS = 1;
/** Of all that are aimed at: whether a point comes by hangs on what goes on beside it. */
const MISSED_SHARE_MAX = 0.4;

/** Some of what is done, one after the other from a random one on; what a lost write would come of is met besides. */
function choosePhases(points: PlannedKill[], random: () => number): string[] {
  const phases = [...new Set(points.map(({ point }) => point.phase))];
  const start = below(random, phases.length);
  return [...phases.slice(start), ...phases.slice(0, start)].slice(0, TOGETHER_PHASES);
}

Deno.test("SIGKILL between any two statements loses nothing", async () => {
  const seed = chooseSeed();
  const random = seeded(seed);
  const until = Date.now() + TOGETHER_MS;
  await using run = await KillRun.open({ apart: false }, random);
  const points = await run.findPoints({ fresh: false });
  const { first, further } = sampleKills(points, random, choosePhases(points, random));
  for (const kill of first) await run.kill(kill);
  for (const kill of further) if (Date.now() < until) await run.kill(kill);
  await run.end();
  console.log(`Seed ${seed}: ${run.describe()}`);
  assertEquals(new Set(first.map(({ victim }) => victim)).size, run.bed.victims.length);
  assert(run.missed.length <= MISSED_SHARE_MAX * run.kills, `missed: ${run.missed.join("\n")}`);
});

Deno.test("SIGKILL of a worker apart, between its statements and at random moments amid load, loses nothing", async () => {
  const seed = chooseSeed();
  const random = seeded(seed);
  await using run = await KillRun.open({ apart: true }, random);
  const points = await run.findPoints({ fresh: false }, ["write and snapshot", "delete"]);
  for (const kill of sampleKills(points, random, APART_PHASES).first) await run.kill(kill);
  for (let round = 0; round < RANDOM_ROUNDS; round++) {
    for (const victim of run.bed.victims) await run.killAmidLoad(victim);
  }
  await run.end();
  console.log(`Seed ${seed}: ${run.describe()}`);
});
