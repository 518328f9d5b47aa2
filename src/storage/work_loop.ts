/**
 * The life of a worker: a round of work, a rest, the next round, until it is stopped.
 *
 *     round ──(says how long to rest)──► rest ──(woken, nudged, or over)──► round
 *
 * A wake ends any rest, and one that comes during a round keeps the rest behind it from beginning: somebody waits. A nudge
 * only ends the rest of a worker that found nothing to do. A fault is told, and tried again after a pause.
 */

/** How long a worker rests; when it is `idle`, a nudge ends that too. */
export interface Rest {
  readonly ms: number;
  readonly idle?: boolean;
}

export interface WorkLoopOptions {
  /** The rest behind a fault. */
  readonly retryMs: number;
  /** Told of a fault; the loop goes on. */
  readonly onFault: (error: unknown) => void;
}

export class WorkLoop {
  readonly #stopping = new AbortController();
  #woken = false;
  #nudged = false;
  #idle = false;
  #end: () => void = () => {};
  #running?: Promise<void>;

  /** @param round does a round of work and says how long to rest. It may end early when the loop is stopping. */
  constructor(private readonly round: () => Promise<Rest>, private readonly options: WorkLoopOptions) {}

  /** Whether the round in hand is to be the last. */
  get isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  /** Starts with a round; ends with {@linkcode WorkLoop.stop}. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends after the round in hand. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#running;
  }

  /** Tells the worker that somebody waits for it. */
  wake(): void {
    this.#woken = true;
    this.#end();
  }

  /** Tells the worker that there is something to do, though nobody waits for it. */
  nudge(): void {
    this.#nudged = true;
    if (this.#idle) this.#end();
  }

  async #run(): Promise<void> {
    while (!this.isStopping) {
      this.#woken = this.#nudged = false;
      await this.#rest(await this.#tryRound());
    }
  }

  async #tryRound(): Promise<Rest> {
    try {
      return await this.round();
    } catch (error) {
      this.options.onFault(error);
      return { ms: this.options.retryMs };
    }
  }

  async #rest({ ms, idle = false }: Rest): Promise<void> {
    if (ms <= 0 || this.#woken || (idle && this.#nudged) || this.isStopping) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#end = resolve;
    this.#idle = idle;
    await promise;
    clearTimeout(timer);
    this.#idle = false;
  }
}
