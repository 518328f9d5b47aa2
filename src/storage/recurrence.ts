/**
 * Recurrence: when something happens again and again. By a cron pattern in a time zone, or every so long from a moment on.
 *
 * A pattern has five fields. Around a change to summer time, what falls into the hour that is left out happens once right
 * behind it; at a change back, a fixed time that comes twice happens the first time only, and what happens every hour or
 * oftener goes on through both. `every` counts real time, and knows of no such changes.
 */

import { Cron } from "croner";
import { StorageError } from "../errors.ts";
import { parseDuration } from "./duration.ts";

/** Either a pattern or a duration. */
export interface Recurrence {
  readonly cron?: string;
  /** An ISO 8601 duration, from the moment of creation on. */
  readonly every?: string;
  /** An IANA name. */
  readonly timeZone: string;
}

/** Longest pattern: every minute of an hour named one by one fits. */
export const CRON_LENGTH_MAX = 256;

/** Demands a recurrence that recurs. @throws {StorageError} `invalid-argument`. */
export function requireRecurrence(recurrence: Recurrence, everySecondsMin: number): void {
  const { cron, every, timeZone } = recurrence;
  requireTimeZone(timeZone);
  if ((cron === undefined) === (every === undefined)) {
    throw new StorageError("invalid-argument", "Cannot tell when to run: expected either cron or every");
  }
  if (every !== undefined && parseDuration(every) < everySecondsMin) {
    throw new StorageError(
      "invalid-argument",
      `Cannot run every ${every}: expected ${everySecondsMin} seconds at least`,
    );
  }
  if (cron !== undefined) requireCron(cron, timeZone);
}

/** The first moment behind `after`; none when the pattern never comes again. */
export function nextMoment(
  { cron, every, timeZone }: Recurrence,
  createdAt: Date,
  after: Date,
): Date | undefined {
  if (cron !== undefined) return parseCron(cron, timeZone).nextRun(after) ?? undefined;
  const stepMs = parseDuration(every as string) * 1_000;
  // Before its creation too: the clock may have been set back.
  const steps = Math.floor((after.getTime() - createdAt.getTime()) / stepMs);
  return new Date(createdAt.getTime() + (steps + 1) * stepMs);
}

/** @throws {StorageError} `invalid-argument` for a time zone that is not known. */
export function requireTimeZone(timeZone: string): void {
  try {
    Intl.DateTimeFormat("en", { timeZone });
  } catch {
    throw new StorageError(
      "invalid-argument",
      "Cannot use this time zone: expected an IANA name like Europe/Berlin",
    );
  }
}

function requireCron(cron: string, timeZone: string): void {
  const isPattern = () => {
    try {
      return parseCron(cron, timeZone).nextRun() !== null;
    } catch {
      return false;
    }
  };
  if (cron.length <= CRON_LENGTH_MAX && isPattern()) return;
  throw new StorageError(
    "invalid-argument",
    "Cannot use this cron pattern: expected five fields (minute, hour, day, month, weekday) that some day match",
  );
}

function parseCron(cron: string, timezone: string): Cron {
  return new Cron(cron, { timezone, mode: "5-part", paused: true });
}
