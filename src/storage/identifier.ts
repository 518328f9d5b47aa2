/**
 * Ids and names. An id is a UUIDv7 (RFC 9562), so ids sort by creation; a name is chosen by people and can never be
 * mistaken for an id, so that one path segment can be either.
 */

import { generate } from "@std/uuid/v7";
import { StorageError } from "../errors.ts";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export const NAME_LENGTH_MAX = 63;

/** What a name looks like: 1 to 63 letters, digits, dots, underscores and hyphens, the first a letter or digit. */
export const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

/** Makes a new id. */
export function createId(): string {
  return generate();
}

/** Tells whether `reference` is an id rather than a name. */
export function isId(reference: string): boolean {
  return UUID.test(reference);
}

/** @throws {StorageError} `invalid-argument` when `name` is not a name, or looks like an id. */
export function requireName(name: string): void {
  if (!NAME_PATTERN.test(name) || isId(name)) {
    throw new StorageError(
      "invalid-argument",
      "Cannot use this name: expected 1 to 63 letters, digits, dots, underscores or hyphens, and no UUID",
    );
  }
}

/**
 * The one row that `reference` names.
 *
 * @throws {StorageError} `code` when there is none, `ambiguous-name` when pools have things of the same name.
 */
export function requireOne<T>(
  rows: T[],
  code: `${"client" | "device" | "pool" | "schedule" | "snapshot" | "volume"}-not-found`,
  reference: string,
): T {
  const noun = code.slice(0, code.indexOf("-"));
  if (rows.length > 1) {
    throw new StorageError(
      "ambiguous-name",
      `Cannot tell which ${noun} is meant: several pools have one named ${reference}; name the pool or use its id`,
    );
  }
  if (rows.length === 0) throw new StorageError(code, `Cannot find ${noun} ${reference.slice(0, 64)}`);
  return rows[0];
}
