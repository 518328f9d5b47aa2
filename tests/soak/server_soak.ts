/**
 * `deno task soak`: everybody at once at one server, with kills, for 30 minutes or `--minutes N`. Prints a sample a line and in the
 * end what was done and how the figures went; fails at the first thing that is not exact, or when one of them grew.
 *
 * `--seed N` repeats what was chosen, though not when the machine did it; `--kill-every SECONDS` is the mean, 60 unless given.
 */

import { parseArgs } from "@std/cli/parse-args";
import { soak } from "./soak_run.ts";
import { findGrowth } from "./soak_samples.ts";

const MINUTES_DEFAULT = 30;
const VOLUME_BLOCKS = 512;
const KILL_EVERY_SECONDS = 60;
const SAMPLE_EVERY_SECONDS = 5;

const { minutes, seed, killEverySeconds } = parseArgs(Deno.args, {
  string: ["minutes", "seed", "killEverySeconds"],
  alias: { "kill-every": "killEverySeconds" },
});
const options = {
  seconds: Number(minutes ?? MINUTES_DEFAULT) * 60,
  seed: Number(seed ?? crypto.getRandomValues(new Uint32Array(1))[0]),
  volumeBlocks: VOLUME_BLOCKS,
  killEverySeconds: Number(killEverySeconds ?? KILL_EVERY_SECONDS),
  sampleEverySeconds: SAMPLE_EVERY_SECONDS,
};
console.log(`Soaking for ${options.seconds} seconds, seed ${options.seed}`);
const report = await soak({ ...options, onSample: (line) => console.log(line) });
console.log(JSON.stringify(report, undefined, 2));
const grown = findGrowth(report.trends);
if (grown.length > 0) console.error(grown.join("\n"));
Deno.exit(grown.length > 0 ? 1 : 0);
