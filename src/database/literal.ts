/**
 * Values inside SQL text, for statements that are sent several in one message and so cannot have parameters. Only numbers
 * and UUIDs: nothing that would need quoting gets through.
 */

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** @throws {TypeError} unless `id` is a UUID. */
export function uuidLiteral(id: string): string {
  if (!UUID.test(id)) throw new TypeError("Cannot write this value into SQL: expected a UUID");
  return `'${id}'::uuid`;
}

/** @throws {TypeError} unless `count` is a whole number below 2^53. */
export function bigintLiteral(count: number): string {
  if (!Number.isSafeInteger(count)) {
    throw new TypeError(`Cannot write ${count} into SQL: expected a whole number`);
  }
  return `${count}::bigint`;
}

/** @throws {TypeError} unless all of `ids` are UUIDs. */
export function uuidsLiteral(ids: readonly string[]): string {
  return `array[${ids.map(uuidLiteral).join()}]::uuid[]`;
}

/** @throws {TypeError} unless all of `counts` are whole numbers below 2^53. */
export function bigintsLiteral(counts: readonly number[]): string {
  if (!counts.every(Number.isSafeInteger)) {
    throw new TypeError("Cannot write these values into SQL: expected whole numbers");
  }
  return `'{${counts.join()}}'::bigint[]`;
}
