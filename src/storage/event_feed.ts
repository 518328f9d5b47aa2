/**
 * The event feed: follows the events of pools as they are committed, by this process or any other.
 *
 * PostgreSQL's NOTIFY only wakes; what happened is always read from the table, from the follower's own position on. So a
 * follower misses nothing and sees nothing twice, whether it was connected at the time or not, and a follower that reads
 * slowly holds no memory. A wake-up that got lost (the listening connection was cut) costs the poll time; and a follower outlives a
 * database that is away: it looks again at each poll until that is back.
 */

import type { Database } from "../database/client.ts";
import { EVENT_CHANNEL, type EventFilter, listEvents, readLastEventId, type StorageEvent } from "./event.ts";
import { PASSING_FAULTS, toStorageError } from "./fault.ts";
import type { StorageLimits } from "./limits.ts";

/** How long a follower waits for a wake-up before it looks all the same. */
const POLL_MS = 1_000;
/** Events read at once. */
const PAGE_EVENTS_MAX = 100;

export class EventFeed {
  readonly #waiting = new Map<string, Set<() => void>>();
  #unlisten?: () => Promise<void>;

  constructor(
    private readonly database: Database,
    private readonly limits: Pick<StorageLimits, "flushWaitMsMax" | "flushWaitPollMs">,
  ) {}

  /** Starts listening, on a connection of its own. */
  async start(): Promise<void> {
    const listening = await this.database.$client.listen(
      EVENT_CHANNEL,
      (poolId) => this.#wake(poolId),
      () => this.#wakeAll(),
    );
    this.#unlisten = listening.unlisten;
  }

  /** Stops listening; followers end by their own signals. */
  async stop(): Promise<void> {
    await this.#unlisten?.();
    this.#wakeAll();
  }

  /** The events of a pool behind `afterEventId`, page by page, as they come; ends when `signal` is aborted. */
  async *follow(
    poolId: string,
    filter: EventFilter,
    afterEventId: number,
    signal: AbortSignal,
  ): AsyncGenerator<StorageEvent[]> {
    let position = afterEventId;
    while (!signal.aborted) {
      const changed = Promise.withResolvers<void>();
      using _ = this.#whenWoken(poolId, changed.resolve);
      const look = await this.#look(poolId, filter, position);
      if (look === "away") {
        await waitFor(changed.promise, POLL_MS, signal);
        continue;
      }
      const { last, events } = look;
      if (events.length > 0) yield events;
      if (events.length === PAGE_EVENTS_MAX) {
        position = events[events.length - 1].eventId;
        continue;
      }
      position = Math.max(position, last, events.at(-1)?.eventId ?? 0);
      await waitFor(changed.promise, POLL_MS, signal);
    }
  }

  /** Looks again at each event of the pool and at each poll, until the longest wait is over or `signal` is aborted. */
  async *looks(poolId: string, signal: AbortSignal): AsyncGenerator<void> {
    const { flushWaitMsMax, flushWaitPollMs } = this.limits;
    const over = AbortSignal.any([signal, AbortSignal.timeout(flushWaitMsMax)]);
    while (!over.aborted) {
      yield;
      const changed = Promise.withResolvers<void>();
      using _ = this.#whenWoken(poolId, changed.resolve);
      await waitFor(changed.promise, flushWaitPollMs, over);
    }
  }

  async #look(
    poolId: string,
    filter: EventFilter,
    after: number,
  ): Promise<{ last: number; events: StorageEvent[] } | "away"> {
    try {
      // What is committed up to here is in the page, so the next look can start behind it whatever the filter left out.
      const last = await readLastEventId(this.database, poolId);
      return { last, events: await listEvents(this.database, poolId, filter, after, PAGE_EVENTS_MAX) };
    } catch (error) {
      if (!PASSING_FAULTS.has(toStorageError(error)?.code ?? "")) throw error;
      return "away";
    }
  }

  #whenWoken(poolId: string, resolve: () => void): Disposable {
    const waiting = this.#waiting.get(poolId) ?? new Set();
    this.#waiting.set(poolId, waiting.add(resolve));
    return {
      [Symbol.dispose]: () => {
        waiting.delete(resolve);
        if (waiting.size === 0 && this.#waiting.get(poolId) === waiting) this.#waiting.delete(poolId);
      },
    };
  }

  #wake(poolId: string): void {
    for (const resolve of this.#waiting.get(poolId) ?? []) resolve();
  }

  #wakeAll(): void {
    for (const poolId of this.#waiting.keys()) this.#wake(poolId);
  }
}

/** Waits for `promise`, `ms` or `signal`, whichever comes first. */
async function waitFor(promise: Promise<void>, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const over = Promise.withResolvers<void>();
  const end = () => over.resolve();
  const timer = setTimeout(end, ms);
  signal.addEventListener("abort", end, { once: true });
  try {
    await Promise.race([promise, over.promise]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
  }
}
