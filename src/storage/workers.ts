/**
 * The workers: what goes on in the background of a process that flushes. They are made, started and stopped together; a process
 * has all of them or none, and then another one must.
 *
 * They stop in the order in which they give each other work: first who takes snapshots and copies, then the appends that are under
 * way, then who flushes, reclaims, counts and digests what these left.
 */

import type { Database } from "../database/client.ts";
import { Copier } from "./copier.ts";
import { Digester } from "./digester.ts";
import { Flusher } from "./flusher.ts";
import type { Observer } from "./observer.ts";
import type { ProcessMemory } from "./process_memory.ts";
import { Reclaimer } from "./reclaimer.ts";
import type { RunContext } from "./schedule_run.ts";
import { Scheduler } from "./scheduler.ts";
import { Scrubber } from "./scrubber.ts";
import { SpaceCounter } from "./space_counter.ts";

export interface WorkersOptions extends RunContext {
  /** Whether this process has them. */
  readonly here: boolean;
  /** What the workers append by. */
  readonly memory: ProcessMemory;
  /** Told of faults; the workers go on. */
  readonly onFault: (error: unknown) => void;
  readonly observer: Observer;
}

/** Each of the workers. */
interface Crew {
  readonly flusher: Flusher;
  readonly reclaimer: Reclaimer;
  readonly spaceCounter: SpaceCounter;
  readonly scheduler: Scheduler;
  readonly copier: Copier;
  readonly scrubber: Scrubber;
  readonly digester: Digester;
}

export class Workers {
  readonly #crew?: Crew;

  constructor(private readonly database: Database, private readonly options: WorkersOptions) {
    if (options.here) this.#crew = this.#make();
  }

  /** The flusher, as far as others judge it; absent when this process has none. */
  get flusher(): { readonly sweptAt: Date | undefined } | undefined {
    return this.#crew?.flusher;
  }

  /** Starts all of them; ends with {@linkcode Workers.stop}. */
  start(): void {
    if (this.#crew === undefined) return;
    for (const worker of Object.values(this.#crew)) worker.start();
  }

  /** Ends after the steps in hand and all appends of this process. */
  async stop(): Promise<void> {
    const { flusher, reclaimer, spaceCounter, scheduler, copier, scrubber, digester } = this.#crew ?? {};
    await scheduler?.stop();
    await copier?.stop();
    await this.options.memory.settled();
    await Promise.all([
      flusher?.stop(),
      reclaimer?.stop(),
      spaceCounter?.stop(),
      scrubber?.stop(),
      digester?.stop(),
    ]);
  }

  /** Tells those that they have something to do at once. */
  wake(...names: Exclude<keyof Crew, "spaceCounter">[]): void {
    for (const name of names) this.#crew?.[name].wake();
  }

  /** Tells the flusher that there is something to flush, though nobody waits for it. */
  nudgeFlusher(): void {
    this.#crew?.flusher.nudge();
  }

  #make(): Crew {
    const { here: _, memory, onFault, observer, ...running } = this.options;
    const { limits, clock } = running;
    const background = { pollMs: limits.reclaimPollMs, clock, onFault };
    return {
      flusher: new Flusher(this.database, { limits, clock, onFault, observer }),
      reclaimer: new Reclaimer(this.database, { ...background, observer }),
      spaceCounter: new SpaceCounter(this.database, background),
      scheduler: new Scheduler(this.database, {
        ...running,
        onFault,
        onRemoved: () => this.wake("reclaimer"),
      }),
      copier: new Copier(this.database, {
        limits,
        clock,
        appenderOf: (pool) => memory.appenderOf(pool),
        onEnded: () => this.wake("flusher", "reclaimer"),
        onFault,
      }),
      scrubber: new Scrubber(this.database, { limits, clock, onFault }),
      digester: new Digester(this.database, { limits, clock, onFault, observer }),
    };
  }
}
