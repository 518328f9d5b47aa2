/**
 * How far a snapshot is from its seal: what is ahead of its marker in the cache, and how long that takes at the flusher's rate.
 *
 * It is a subtraction of counters, whatever the cache holds. No entry behind the oldest marker is ever flushed before it, so all
 * that was flushed was ahead of this one.
 */

/** How far a snapshot is from its seal; nothing is ahead of a sealed one. */
export interface SealProgress {
  readonly entriesAhead: number;
  readonly bytesAhead: number;
  /** The flusher's rate of late; 0 before it is known. */
  readonly bytesPerSecond: number;
  /** Absent while the rate is not known. */
  readonly etaSeconds?: number;
  /** The same by client, the largest first, where that was looked for. */
  readonly byClient?: ClientShare[];
}

/** What a client has ahead of a marker; without an id, what several have together. */
export interface ClientShare {
  readonly clientId?: string;
  readonly entriesAhead: number;
  readonly bytesAhead: number;
}

/** What is left to flush before the seal of a snapshot, and how long that takes at the flusher's rate. */
export function toProgress(
  { markerSequence, entriesThrough, bytesBefore }: {
    markerSequence: number;
    /** Entries that were written through before it. */
    entriesThrough: number;
    bytesBefore: number;
  },
  tail: { entriesFlushed: number; bytesFlushed: number; bytesPerSecond: number },
): SealProgress {
  const entriesAhead = Math.max(0, markerSequence - 1 - entriesThrough - tail.entriesFlushed);
  const bytesAhead = Math.max(0, bytesBefore - tail.bytesFlushed);
  return estimateSeal({ entriesAhead, bytesAhead }, tail.bytesPerSecond);
}

/** How long what is ahead of a marker takes at that rate. */
export function estimateSeal(
  { entriesAhead, bytesAhead }: ClientShare,
  bytesPerSecond: number,
): SealProgress {
  return {
    entriesAhead,
    bytesAhead,
    bytesPerSecond,
    ...(bytesPerSecond > 0 ? { etaSeconds: bytesAhead / bytesPerSecond } : {}),
  };
}
