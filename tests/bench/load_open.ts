/**
 * The open-loop load generator: requests are due at a fixed schedule, whatever became of the earlier ones.
 *
 *     deno run load_open.ts '{"plan": …, "ratePerSecond": 4000, …}'
 *
 * A latency counts from the moment the request was *due*, not from when it was sent: a server that stalls for a second
 * holds up every request of that second, and a generator that waited politely would tell of one only ("coordinated
 * omission", Gil Tene). A request that is due waits for a free connection.
 *
 * It prints `warmed up`, and at the end its latencies as one line of JSON. On standard input it takes `pause`, after
 * which it sends nothing and prints `paused` as soon as all is answered, and `resume`.
 */

import { TextLineStream } from "@std/streams";
import { LoadConnection } from "./load_connection.ts";
import { type LoadPlan, RequestMaker } from "./load_plan.ts";
import { percentile } from "./statistics.ts";

/** How often the schedule is looked at, besides whenever a connection becomes free. */
const TICK_MS = 1;

export interface OpenLoadOrder {
  readonly plan: LoadPlan;
  readonly ratePerSecond: number;
  readonly connectionsMax: number;
  readonly warmupSeconds: number;
  readonly seconds: number;
}

export interface OpenLoadCount {
  readonly requests: number;
  readonly failures: number;
  readonly achievedPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly p999Ms: number;
  readonly maxMs: number;
}

interface Lane {
  readonly connection: LoadConnection;
  readonly buffer: Uint8Array<ArrayBuffer>;
}

class OpenLoop {
  readonly #maker: RequestMaker;
  readonly #free: Lane[] = [];
  readonly #latenciesMs: number[] = [];
  readonly #done = Promise.withResolvers<void>();
  readonly #startsAt = performance.now();
  #due = 0;
  #answered = 0;
  #failures = 0;
  #lastAnsweredAt = 0;
  #paused = false;

  constructor(private readonly order: OpenLoadOrder) {
    this.#maker = new RequestMaker(order.plan);
  }

  /** Requests of the whole run; those of the warm-up are the first ones. */
  get #total(): number {
    const { ratePerSecond, warmupSeconds, seconds } = this.order;
    return Math.ceil(ratePerSecond * (warmupSeconds + seconds));
  }

  async run(lanes: Lane[]): Promise<OpenLoadCount> {
    this.#free.push(...lanes);
    const ticks = setInterval(() => this.#dispatch(), TICK_MS);
    const warmup = setTimeout(() => console.log("warmed up"), this.order.warmupSeconds * 1000);
    try {
      await this.#done.promise;
    } finally {
      clearInterval(ticks);
      clearTimeout(warmup);
    }
    return this.#count();
  }

  pause(): void {
    this.#paused = true;
    this.#tellPaused();
  }

  resume(): void {
    this.#paused = false;
    this.#dispatch();
  }

  #dueAt(index: number): number {
    return this.#startsAt + index * 1000 / this.order.ratePerSecond;
  }

  #dispatch(): void {
    const now = performance.now();
    while (
      !this.#paused && this.#free.length > 0 && this.#due < this.#total && this.#dueAt(this.#due) <= now
    ) {
      this.#send(this.#free.pop() as Lane, this.#due++).catch(this.#done.reject);
    }
  }

  async #send(lane: Lane, index: number): Promise<void> {
    const status = await lane.connection.exchange(this.#maker.make(lane.buffer));
    this.#lastAnsweredAt = performance.now();
    this.#answered++;
    if (status < 200 || status > 299) this.#failures++;
    if (index >= this.order.ratePerSecond * this.order.warmupSeconds) {
      this.#latenciesMs.push(this.#lastAnsweredAt - this.#dueAt(index));
    }
    this.#free.push(lane);
    if (this.#answered === this.#total) this.#done.resolve();
    if (this.#paused) this.#tellPaused();
    else this.#dispatch();
  }

  #tellPaused(): void {
    if (this.#free.length === this.order.connectionsMax) console.log("paused");
  }

  #count(): OpenLoadCount {
    const steadyMs = this.#lastAnsweredAt - this.#startsAt - this.order.warmupSeconds * 1000;
    const [p50Ms, p99Ms, p999Ms, maxMs] = [0.5, 0.99, 0.999, 1].map((share) =>
      percentile(this.#latenciesMs, share)
    );
    const requests = this.#latenciesMs.length;
    const achievedPerSecond = requests / (steadyMs / 1000);
    return { requests, failures: this.#failures, achievedPerSecond, p50Ms, p99Ms, p999Ms, maxMs };
  }
}

async function obey(loop: OpenLoop): Promise<void> {
  const lines = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
  for await (const line of lines) {
    if (line === "pause") loop.pause();
    if (line === "resume") loop.resume();
  }
}

async function main(order: OpenLoadOrder): Promise<void> {
  using connections = new DisposableStack();
  const lanes: Lane[] = [];
  for (let lane = 0; lane < order.connectionsMax; lane++) {
    const connection = connections.use(await LoadConnection.open(order.plan.url));
    lanes.push({ connection, buffer: new RequestMaker(order.plan).createBuffer() });
  }
  const loop = new OpenLoop(order);
  void obey(loop);
  console.log(JSON.stringify(await loop.run(lanes)));
}

if (import.meta.main) {
  await main(JSON.parse(Deno.args[0]));
  // Standard input is still being read.
  Deno.exit(0);
}
