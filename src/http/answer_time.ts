/**
 * The longest that a request waits for its answer. PostgreSQL ends statements that take too long; one that hangs ends
 * nothing, and whoever asks it waits as long as it does.
 *
 * What was begun goes on, and ends when the database is back: a batch under way is committed or not, a key gets its answer or is free
 * again. So the client is told that nobody knows, unless all it wanted was to read.
 *
 * The time counts from when the body is there: how long that takes is up to the client. An image is written while it comes, and the
 * time counts for each piece of it.
 */

import { createMiddleware } from "hono/factory";
import { StorageError } from "../errors.ts";
import type { Door, DoorContext, DoorEnv } from "./door.ts";

/** Bounds whatever comes behind it, but for bodies that are streamed: who reads those bounds what is done with them. */
export function limitAnswer(door: Door, isStreamed: (c: DoorContext) => boolean) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    if (isStreamed(c)) await next();
    else await answerInTime(door, c.req.method, next());
  });
}

/**
 * Answers what `work` does.
 *
 * @throws {StorageError} when that takes too long: `database-unavailable` for a read, else `outcome-unknown`; what `work` throws.
 */
export async function answerInTime<T>({ limits }: Door, method: string, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(tellLate(method)), limits.answerMsMax);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function tellLate(method: string): StorageError {
  if (method === "GET" || method === "HEAD") {
    return new StorageError("database-unavailable", "Cannot answer in time: the database does not answer");
  }
  return new StorageError(
    "outcome-unknown",
    "Cannot tell whether the request took effect: the database does not answer; read what it was to change, or send it " +
      "again with its Idempotency-Key",
  );
}
