/**
 * What all background workers are: they run wherever a flusher runs and keep nothing in memory that another could not find again, so
 * any of them may be killed at any time, and any number may run.
 */

import { type Rest, WorkLoop, type WorkLoopOptions } from "./work_loop.ts";

/** A worker by rounds: what one does and how long it rests behind it, its class says. */
export abstract class BackgroundWorker {
  protected readonly loop: WorkLoop;

  constructor(options: WorkLoopOptions) {
    this.loop = new WorkLoop(() => this.round(), options);
  }

  /** Starts with a round; ends with {@linkcode BackgroundWorker.stop}. */
  start(): void {
    this.loop.start();
  }

  /** Ends after the step in hand. */
  async stop(): Promise<void> {
    await this.loop.stop();
  }

  /** Tells it that there is something to do. */
  wake(): void {
    this.loop.wake();
  }

  protected abstract round(): Promise<Rest>;
}

export interface SweepingWorkerOptions {
  /** How long it waits when there is nothing to do, or after a fault. */
  readonly pollMs: number;
  /** Rest for each millisecond of work: by it a worker that nobody waits for leaves the database to those who do. */
  readonly restShare: number;
  /** The shortest and the longest rest behind a sweep that went on, in milliseconds; without bounds unless given. */
  readonly restMsMin?: number;
  readonly restMsMax?: number;
  /** Told of a fault; it goes on. */
  readonly onFault: (error: unknown) => void;
}

/** A worker that looks at all there is to do, does a step of each, and rests by how long that took. */
export abstract class SweepingWorker extends BackgroundWorker {
  constructor(private readonly resting: SweepingWorkerOptions) {
    super({ retryMs: resting.pollMs, onFault: resting.onFault });
  }

  /** One step of each thing to do; answers whether any went on. */
  abstract sweep(): Promise<boolean>;

  protected async round(): Promise<Rest> {
    const startedAt = performance.now();
    if (!await this.sweep()) return { ms: this.resting.pollMs };
    const { restShare, restMsMin = 0, restMsMax = Infinity } = this.resting;
    return { ms: Math.min(Math.max(restMsMin, restShare * (performance.now() - startedAt)), restMsMax) };
  }
}
