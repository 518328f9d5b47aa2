/**
 * The closed-loop load generator for machines without `wrk`: a process that prints its count as one line of JSON.
 *
 *     deno run load_closed.ts '{"plan": …, "connections": 64, "warmupSeconds": 0.5, "seconds": 2.5}'
 *
 * Each connection sends its next request when the last one is answered.
 */

import { LoadConnection } from "./load_connection.ts";
import { type LoadPlan, RequestMaker } from "./load_plan.ts";

export interface ClosedLoadOrder {
  readonly plan: LoadPlan;
  readonly connections: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
}

/** What a closed-loop generator tells: what was answered in the steady part, and what went wrong at any time. */
export interface ClosedLoadCount {
  readonly requests: number;
  readonly seconds: number;
  readonly failures: number;
}

async function run({ plan, connections, warmupSeconds, seconds }: ClosedLoadOrder): Promise<ClosedLoadCount> {
  const maker = new RequestMaker(plan);
  const steadyAt = performance.now() + warmupSeconds * 1000;
  const endsAt = steadyAt + seconds * 1000;
  const count = { requests: 0, failures: 0 };
  const send = async () => {
    using connection = await LoadConnection.open(plan.url);
    const buffer = maker.createBuffer();
    for (let now = 0; now < endsAt;) {
      const status = await connection.exchange(maker.make(buffer));
      now = performance.now();
      if (status < 200 || status > 299) count.failures++;
      else if (now >= steadyAt && now < endsAt) count.requests++;
    }
  };
  await Promise.all(Array.from({ length: connections }, send));
  return { ...count, seconds };
}

if (import.meta.main) console.log(JSON.stringify(await run(JSON.parse(Deno.args[0]))));
