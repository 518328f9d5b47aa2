/**
 * `deno task soak-kills`: SIGKILL of everybody at every point, and at random moments amid load, again and again on the same data, for as long
 * as `SOAK_MINUTES` says, 10 unless given: half of it at points, half at random. Points are tried in an order by `KILL_SEED`, which is
 * printed.
 */

import { below, seeded } from "../support/history.ts";
import { chooseSeed, KillRun, type PlannedKill, sampleKills } from "../faults/kill_run.ts";

const MINUTES_DEFAULT = 10;
const MINUTES = Number(Deno.env.get("SOAK_MINUTES") ?? MINUTES_DEFAULT);
/** How many kills are between two lines. */
const TELL_EVERY = 25;

for (const { apart, share } of [{ apart: false, share: 0.35 }, { apart: true, share: 0.15 }]) {
  Deno.test(`SIGKILL at every point, ${apart ? "worker apart" : "workers in the server"}`, async () => {
    const seed = chooseSeed();
    const random = seeded(seed);
    const until = Date.now() + share * MINUTES * 60_000;
    await using run = await KillRun.open({ apart }, random);
    const points = merge(await run.findPoints({ fresh: true }), await run.findPoints({ fresh: false }));
    console.log(`Seed ${seed}: ${points.length} kills to try`);
    const { first, further } = sampleKills(points, random);
    for (const kill of [...first, ...further]) {
      if (Date.now() > until) break;
      await run.kill(kill);
      if (run.kills % TELL_EVERY === 0) console.log(run.describe());
    }
    await run.end();
    console.log(`Seed ${seed}: ${run.describe()}`);
  });
}

function merge(...parts: PlannedKill[][]): PlannedKill[] {
  const byName = new Map(parts.flat().map((kill) => [`${kill.victim} ${kill.point.id}`, kill]));
  return [...byName.values()];
}

Deno.test("SIGKILL at random moments amid load", async () => {
  const seed = chooseSeed();
  const random = seeded(seed);
  const until = Date.now() + 0.5 * MINUTES * 60_000;
  await using run = await KillRun.open({ apart: true }, random);
  const { victims } = run.bed;
  while (Date.now() < until) {
    await run.killAmidLoad(victims[below(random, victims.length)]);
    if (run.kills % TELL_EVERY === 0) console.log(run.describe());
  }
  await run.end();
  console.log(`Seed ${seed}: ${run.describe()}`);
});
