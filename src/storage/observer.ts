/**
 * What the storage system tells whoever measures it. It knows nothing of how figures are kept or shown.
 *
 * An observer is told behind the commit of what it is told of. It must neither throw nor take long: the appender and the workers
 * wait for it.
 */

import type { Flushed } from "./flush.ts";

/** A batch of requests that was committed as one. */
export interface AppendedBatch {
  readonly requestCount: number;
  readonly entryCount: number;
  /** Of the requests that were taken. */
  readonly bytes: number;
  /** From the first statement of its transaction to the commit. */
  readonly milliseconds: number;
}

export interface Observer {
  appended(batch: AppendedBatch): void;
  /** A marker was committed so long after it was asked for. */
  placedMarker(milliseconds: number): void;
  /** A step of flushing was committed. */
  flushed(step: Flushed, milliseconds: number): void;
  /** A step of reclaim gave segments back. */
  reclaimed(segmentsReturned: number): void;
  /** A step of a digest has read so much. */
  digested(bytes: number): void;
}

/** For whom nobody measures. */
export const UNOBSERVED: Observer = {
  appended: () => {},
  placedMarker: () => {},
  flushed: () => {},
  reclaimed: () => {},
  digested: () => {},
};
