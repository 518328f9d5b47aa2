/**
 * The life of the database: the time between two crashes of PostgreSQL, or between its coming up after one and the next.
 *
 * Invariant: whatever a process remembers of a pool's head and map is right only within the life in which it was learnt. In a
 * pool of relaxed durability a crash takes back the last transactions, so the head may come again to where a process remembers
 * it, by other writes, and a segment that it remembers as mapped may have gone to another slot. Therefore the life is compared
 * wherever the head is.
 *
 * A life stands in an unlogged table, which PostgreSQL empties whenever it recovers from a crash (also of a single one of its
 * processes), is restored from a base backup, or takes over from another server; and it keeps it at an orderly stop, which loses nothing. Copies
 * that keep it as well lead back to an earlier moment of the same life, so whoever puts one in place ends it: {@linkcode endLives}.
 * Who finds none under the pool's lock begins one, with an id that nobody can have met before: a number that is counted up would be lost in the next crash
 * and given again.
 *
 * Clients see it as the *write verifier* (RFC 1813, 3.3.7, has one of the same use and name): if it is the same at a flush as at a relaxed
 * write before it, nothing was lost in between.
 */

import type { Database, Transaction } from "../database/client.ts";

/** What is told where nothing was appended yet in the present life; no life has it. */
export const NO_LIFE = "00000000-0000-0000-0000-000000000000";

/** Begins a life of the pool, unless somebody just has. The pool is locked. */
export async function beginLife(tx: Transaction, poolId: string): Promise<string> {
  const [row] = await tx.$client<{ life: string }[]>`
    insert into pool_lives (pool_id, life) values (${poolId}, ${crypto.randomUUID()})
    on conflict (pool_id) do update set life = pool_lives.life
    returning life`;
  return row.life;
}

/** Ends the lives of all pools of a database that was put in place, and is of an earlier moment. It may be of an older schema. */
export async function endLives({ $client }: Database): Promise<void> {
  const [{ found }] = await $client`select to_regclass('pool_lives') is not null as found`;
  if (found) await $client`delete from pool_lives`;
}
