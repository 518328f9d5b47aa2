/**
 * The little statistics that a bench needs: medians and percentiles.
 */

/** The middle of `values`, or the mean of the two in the middle. @throws when there are none. */
export function median(values: readonly number[]): number {
  const sorted = sort(values);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * The least of `values` that `share` (0 … 1) of them do not exceed: the nearest rank, so always one of them.
 *
 * @throws when there are none.
 */
export function percentile(values: readonly number[], share: number): number {
  const sorted = sort(values);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

function sort(values: readonly number[]): number[] {
  if (values.length === 0) throw new Error("Cannot order no values");
  return values.toSorted((a, b) => a - b);
}
