/**
 * Retention: which snapshots of a schedule its rules keep.
 *
 * Snapshots are judged newest first, and kept when any rule keeps them:
 *
 *     last      the n newest
 *     hourly    the newest one of each of the last n hours that have one; daily, weekly (from Monday on) and monthly alike,
 *               all by the clock of the schedule's time zone
 *     for       all that are no older than the newest by more than a duration
 *
 * As with restic's `forget`, time is told by the snapshots and not by a clock: when a schedule rests, its snapshots stay. So
 * judging again what was kept keeps all of it. The newest is always kept.
 */

import { StorageError } from "../errors.ts";
import { parseDuration } from "./duration.ts";

/** The rules; at least one. Each is how many to keep, but `for`, which is an ISO 8601 duration. */
export interface Keep {
  readonly last?: number;
  readonly hourly?: number;
  readonly daily?: number;
  readonly weekly?: number;
  readonly monthly?: number;
  readonly for?: string;
}

/** Most that one rule counts to: a year of hours, and some. */
export const KEEP_COUNT_MAX = 10_000;

type Rule = (at: Date, newest: Date) => boolean;

/** A period's name, the same for all moments in it and for no others. */
type PeriodOf = (at: Temporal.ZonedDateTime) => string;

const PERIODS: Record<Exclude<keyof Keep, "last" | "for">, PeriodOf> = {
  // An hour that comes twice, when summer time ends, is two hours.
  hourly: (at) => `${at.toPlainDate()} ${at.hour} ${at.offset}`,
  daily: (at) => at.toPlainDate().toString(),
  weekly: (at) => `${at.yearOfWeek} ${at.weekOfYear}`,
  monthly: (at) => at.toPlainDate().toPlainYearMonth().toString(),
};

/** Which of `moments`, newest first, are kept. */
export function chooseKept(moments: Date[], keep: Keep, timeZone: string): boolean[] {
  return moments.map(createJudge(keep, timeZone));
}

/** Makes a judge that tells of one moment after the other, newest first, whether it is kept. */
export function createJudge(keep: Keep, timeZone: string): (at: Date) => boolean {
  const rules = listRules(keep, timeZone);
  let newest: Date | undefined;
  return (at) => {
    const isNewest = newest === undefined;
    const reference = newest ??= at;
    // Each rule counts what it sees, so each has to see all.
    const verdicts = rules.map((rule) => rule(at, reference));
    return isNewest || verdicts.includes(true);
  };
}

/** @throws {StorageError} `invalid-argument` for rules that are none. */
export function requireKeep(keep: Keep): void {
  const { for: duration, ...counts } = keep;
  if (duration !== undefined) parseDuration(duration);
  const given = Object.values(counts).filter((count) => count !== undefined);
  if (given.length === 0 && duration === undefined) {
    throw new StorageError(
      "invalid-argument",
      "Cannot keep by no rule: expected last, hourly, daily, weekly, monthly or for",
    );
  }
  if (given.every((count) => Number.isInteger(count) && count >= 1 && count <= KEEP_COUNT_MAX)) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot keep so many: expected each rule to count from 1 to ${KEEP_COUNT_MAX}`,
  );
}

function listRules(keep: Keep, timeZone: string): Rule[] {
  const rules: Rule[] = [];
  if (keep.last !== undefined) rules.push(countDown(keep.last));
  for (const [name, periodOf] of Object.entries(PERIODS)) {
    const count = keep[name as keyof typeof PERIODS];
    if (count !== undefined) rules.push(newestOfEach(count, periodOf, timeZone));
  }
  if (keep.for !== undefined) rules.push(within(parseDuration(keep.for)));
  return rules;
}

function countDown(count: number): Rule {
  let left = count;
  return () => left-- > 0;
}

function newestOfEach(count: number, periodOf: PeriodOf, timeZone: string): Rule {
  let left = count;
  let last: string | undefined;
  return (at) => {
    if (left === 0) return false;
    const period = periodOf(at.toTemporalInstant().toZonedDateTimeISO(timeZone));
    if (period === last) return false;
    last = period;
    left -= 1;
    return true;
  };
}

function within(seconds: number): Rule {
  return (at, newest) => newest.getTime() - at.getTime() <= seconds * 1_000;
}
