/**
 * Durations of fixed length, as ISO 8601 writes them: weeks, days of 24 hours, hours, minutes and seconds. Months and years
 * have no length of their own, so there are none.
 *
 * Source: ISO 8601-1:2019, 5.5.2.
 */

import { StorageError } from "../errors.ts";

const DURATION = /^P(?:(\d{1,5})W)?(?:(\d{1,5})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,8})M)?(?:(\d{1,10})S)?)?$/;
const SECONDS = [604_800, 86_400, 3_600, 60, 1];
/** A hundred years: what is longer is a slip. */
const DURATION_SECONDS_MAX = 100 * 366 * 86_400;

/** The length of a duration, in seconds: at least one. @throws {StorageError} `invalid-argument` for what is none. */
export function parseDuration(text: string): number {
  const counts = DURATION.exec(text)?.slice(1) ?? [];
  const seconds = counts.reduce((sum, count, index) => sum + Number(count ?? 0) * SECONDS[index], 0);
  if (seconds >= 1 && seconds <= DURATION_SECONDS_MAX && !text.endsWith("T")) return seconds;
  throw new StorageError(
    "invalid-argument",
    "Cannot use this duration: expected one like PT15M, PT6H, P1D or P2W, up to a hundred years",
  );
}
