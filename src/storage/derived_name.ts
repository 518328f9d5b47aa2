/**
 * Names made of another by putting something behind it, for which that one is cut where the whole would be too long.
 */

import { NAME_LENGTH_MAX } from "./identifier.ts";

/** Numbers that a name is tried with where it is taken. */
const NUMBER_MAX = 100;
/** Of a pool's name; about as much is left of the other. */
const POOL_LENGTH_MAX = 31;

/** What a copy of something in the pool named `pool` is called elsewhere, so that its own name still means it alone. */
export function toCopyName(name: string, pool: string): string {
  return putBehind(name, `.${pool.slice(0, POOL_LENGTH_MAX)}`);
}

/** The names to try, best first: `name`, then the same with `.2`, `.3` and so on behind. */
export function listNumbered(name: string): string[] {
  const numbers = Array.from({ length: NUMBER_MAX - 1 }, (_, index) => index + 2);
  return [name, ...numbers.map((number) => putBehind(name, `.${number}`))];
}

function putBehind(name: string, suffix: string): string {
  return `${name.slice(0, NAME_LENGTH_MAX - suffix.length)}${suffix}`;
}
