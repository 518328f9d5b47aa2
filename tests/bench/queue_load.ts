/**
 * What every queue of the bench `queue` is given to do: entries of 4 KiB, appended in bulk while others are drained.
 */

/** How entries are appended: the same for all. A request is acknowledged when all of its entries are committed. */
export const BULK = { entriesPerRequest: 500, requestsInFlight: 4 } as const;
/** Longest wait for a queue to be drained. */
const WAIT_MS_MAX = 60_000;
/** Pause before looking again whether there is something, or nothing. */
const POLL_MS = 2;

/** A queue that is open, and its consumers at work. */
export interface Queue extends AsyncDisposable {
  /** What it is and how it is set. */
  readonly choice: string;
  /** Appends `count` entries, every one of them durably. */
  append(count: number): Promise<void>;
  /** Waits until they have left the queue; `count` is that of all since it was opened. */
  drain(count: number): Promise<void>;
}

/** Calls `append` with the size of each bulk that `count` entries make, several at the same time. */
export async function inBulks(count: number, append: (bulk: number) => Promise<void>): Promise<void> {
  let left = count;
  const send = async () => {
    while (left > 0) {
      const bulk = Math.min(left, BULK.entriesPerRequest);
      left -= bulk;
      await append(bulk);
    }
  };
  await Promise.all(Array.from({ length: BULK.requestsInFlight }, send));
}

/** Looks again and again until `isDone` answers yes. */
export async function waitUntil(isDone: () => boolean | Promise<boolean>): Promise<void> {
  const endAt = performance.now() + WAIT_MS_MAX;
  while (!await isDone()) {
    if (performance.now() > endAt) {
      throw new Error(`Cannot wait longer than ${WAIT_MS_MAX} ms for the queue to be drained`);
    }
    await pause();
  }
}

export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, POLL_MS));
}
