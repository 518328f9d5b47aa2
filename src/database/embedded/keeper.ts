/**
 * The keeper of a running PostgreSQL: looks whether anybody listens at its socket, and starts it again when nobody does.
 *
 *     looking ──(nobody listens)──► pausing ──► starting it again ──► looking
 *                     │
 *                     └──(as often as it may, within the window)──► given up
 *
 * A killed server is back within seconds. One that ends again and again would only be worn out, so the pauses grow, the tries are
 * bounded, and then it is given up: whoever uses it is told, once, and should end. One that does not start because the disk is full
 * is another matter: it is tried until there is room, which a start does not wear.
 *
 * A look is a connection that says nothing. PostgreSQL's main process accepts it whatever state its database is in, and so it does
 * while it hangs (its backlog is the system's): what hangs may go on, and is left alone.
 */
import { EmbeddedPostgresError } from "./embedded_error.ts";

/** How often it looks: a second without PostgreSQL costs clients no more than a retry. */
const LOOK_MS = 1_000;

/** Tries within the window, after which something is wrong that a start does not mend. */
const TRIES_MAX = 5;
const WINDOW_MS = 600_000;

/** The pause before the second try; it doubles with each. */
const PAUSE_MS = 1_000;

/** What the system says where there is no room. */
const DISK_FULL = /No space left on device|Disk quota exceeded/;

/** The pause behind a try that the disk was too full for. */
const FULL_PAUSE_MS = 5_000;

export interface KeeperOptions {
  /** Absolute path of the socket. */
  readonly socket: string;
  /** Starts the server again at the same socket. */
  readonly revive: (signal: AbortSignal) => Promise<void>;
  /** Is told what happens, as a sentence without a point. */
  readonly onProgress: (line: string) => void;
  /** {@linkcode LOOK_MS}, {@linkcode PAUSE_MS} and {@linkcode FULL_PAUSE_MS} unless a test is in a hurry. */
  readonly lookMs?: number;
  readonly pauseMs?: number;
  readonly fullPauseMs?: number;
}

export class Keeper {
  readonly #stopping = new AbortController();
  readonly #lost = new AbortController();
  /** When it was started again, within the window. */
  #tries: number[] = [];
  readonly #running: Promise<void>;

  /** Starts keeping; ends with {@linkcode Keeper.stop}. */
  constructor(private readonly options: KeeperOptions) {
    this.#running = this.#run();
  }

  /** Aborted, with the reason, when it is given up. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Ends after the look in hand; a start in hand is given up. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { lookMs = LOOK_MS } = this.options;
    while (!this.#stopping.signal.aborted && !this.#lost.signal.aborted) {
      await this.#rest(lookMs);
      if (this.#stopping.signal.aborted || await isListening(this.options.socket)) continue;
      await this.#revive();
    }
  }

  async #revive(): Promise<void> {
    const { pauseMs = PAUSE_MS, onProgress, revive } = this.options;
    const now = performance.now();
    this.#tries = this.#tries.filter((at) => now - at < WINDOW_MS);
    const { length } = this.#tries;
    if (length >= TRIES_MAX) {
      return this.#lost.abort(
        new EmbeddedPostgresError(
          `Cannot keep PostgreSQL running: it was started again ${length} times within ten minutes`,
        ),
      );
    }
    this.#tries.push(now);
    onProgress("PostgreSQL has ended, and not by us: starting it again");
    await this.#rest(pauseMs * (2 ** length - 1));
    try {
      if (!this.#stopping.signal.aborted) await revive(this.#stopping.signal);
    } catch (error) {
      if (!this.#stopping.signal.aborted) await this.#tellFailed((error as Error).message);
    }
  }

  async #tellFailed(message: string): Promise<void> {
    const { fullPauseMs = FULL_PAUSE_MS, onProgress } = this.options;
    onProgress(message);
    if (!DISK_FULL.test(message)) return;
    this.#tries.pop();
    await this.#rest(fullPauseMs);
  }

  async #rest(ms: number): Promise<void> {
    const { signal } = this.#stopping;
    if (signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const end = () => resolve();
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end, { once: true });
    await promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}

/** Whether anybody listens there. What else may go wrong says nothing of it. */
async function isListening(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    return !(error instanceof Deno.errors.ConnectionRefused || error instanceof Deno.errors.NotFound);
  }
}
