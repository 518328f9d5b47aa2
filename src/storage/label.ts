/**
 * Labels: keys with values that people put on volumes and snapshots, to find and to choose them by.
 *
 * Each is a row of a table of its own, keyed by (pool, target, key), and not a part of a jsonb document with a GIN index:
 * a GIN index tells which carry a label but not in what order, so that a page of a list would have to read and sort them all,
 * and PostgreSQL reads it by bitmap scans only, which our sessions do without. The indexes here end in the target's id, the
 * order of lists. Where several labels are wanted, a page walks over those that carry the rarest, and looks the others up.
 *
 * Whoever changes the labels of a thing holds the lock of its row, so their number stays within its bound. They go with the
 * thing, and nothing inherits any.
 */

import { type SQL, sql } from "drizzle-orm";
import type { PgColumn } from "drizzle-orm/pg-core";
import type { Connection, Transaction } from "../database/client.ts";
import { labels as labelTable, pools } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import type { StorageLimits } from "./limits.ts";
import type { PageRequest } from "./page.ts";

/** The labels of one thing: values by key. */
export type Labels = Readonly<Record<string, string>>;

/** A change as a JSON merge patch (RFC 7396): a value sets, `null` removes; `null` for the whole removes all. */
export type LabelPatch = Readonly<Record<string, string | null>> | null;

/** What a thing must carry: a key with this value, or with any. */
export interface LabelSelector {
  readonly key: string;
  readonly value?: string;
}

/** What can carry labels. */
export type LabelledKind = typeof labelTable.$inferSelect["kind"];

/** What a key looks like. */
export const LABEL_KEY_PATTERN = /^[A-Za-z0-9._/-]{1,63}$/;
/** Longest value, in UTF-16 units: an index entry holds it whole. */
export const LABEL_VALUE_LENGTH_MAX = 255;
/** Carriers of a label that are counted to find the rarest; beyond, labels are alike. */
const COUNTED_MAX = 1_000;

// Statements

/** The labels of the thing that two columns of a statement name, as one more column. */
export function labelsOf(poolId: PgColumn, targetId: PgColumn): SQL<Labels> {
  return sql<Labels>`(
    select coalesce(json_object_agg(${labelTable.key}, ${labelTable.value} order by ${labelTable.key}), '{}')
    from ${labelTable} where ${labelTable.poolId} = ${poolId} and ${labelTable.targetId} = ${targetId})`;
}

/** How many carry a label, as far as that is worth counting. */
async function countCarrying(
  { $client }: Connection,
  kind: LabelledKind,
  poolId: string | undefined,
  { key, value }: LabelSelector,
): Promise<number> {
  const [{ count }] = await $client<{ count: number }[]>`
    select count(*) from (
      select from pools p cross join lateral (
        select from labels l
        where l.pool_id = p.pool_id and l.kind = ${kind} and l.key = ${key}
          ${value === undefined ? $client`` : $client`and l.value = ${value}`}
        limit ${COUNTED_MAX}
      ) carrying
      ${poolId === undefined ? $client`` : $client`where p.pool_id = ${poolId}`}
      limit ${COUNTED_MAX}
    ) counted`;
  return count;
}

/**
 * The ids of the things of a page that carry all of what is wanted, by a walk over those that carry the first of it. Each
 * `limit` says that it is one: PostgreSQL would choose by its statistics, and those of a table that has grown are wrong by minutes.
 */
function selectCarrying(
  kind: LabelledKind,
  poolId: string | undefined,
  [first, ...others]: LabelSelector[],
  { after, itemsMax }: PageRequest,
): SQL {
  // PostgreSQL before 16 wants each of them to have a name.
  const lookUps = others.map((other, index) =>
    sql`cross join lateral (
      select from ${labelTable} o where o.pool_id = l.pool_id and o.target_id = l.target_id and ${
      matches("o", other)
    } limit 1
    ) ${sql.identifier(`other_${index}`)}`
  );
  return sql`
    select carrying.target_id from ${pools} p cross join lateral (
      select l.target_id from ${labelTable} l ${sql.join(lookUps, sql` `)}
      where l.pool_id = p.pool_id and l.kind = ${kind} and ${matches("l", first)}
        ${after === undefined ? sql`` : sql`and l.target_id > ${after}`}
      order by l.target_id limit ${itemsMax + 1}
    ) carrying
    ${poolId === undefined ? sql`` : sql`where p.pool_id = ${poolId}`}
    order by carrying.target_id limit ${itemsMax + 1}`;
}

function matches(alias: "l" | "o", { key, value }: LabelSelector): SQL {
  const row = sql.raw(alias);
  return value === undefined
    ? sql`${row}.key = ${key}`
    : sql`${row}.key = ${key} and ${row}.value = ${value}`;
}

async function selectLabels({ $client }: Transaction, poolId: string, targetId: string): Promise<Labels> {
  const rows = await $client<{ key: string; value: string }[]>`
    select key, value from labels where pool_id = ${poolId} and target_id = ${targetId} order by key`;
  return Object.fromEntries(rows.map(({ key, value }) => [key, value]));
}

async function removeLabels(
  { $client }: Transaction,
  poolId: string,
  targetId: string,
  keys: string[],
): Promise<void> {
  await $client`
    delete from labels where pool_id = ${poolId} and target_id = ${targetId} and key = any(${keys}::text[])`;
}

/** Gives a new thing its labels. */
export async function insertLabels(
  { $client }: Transaction,
  poolId: string,
  { kind, targetId }: { kind: LabelledKind; targetId: string },
  labels: Labels,
): Promise<void> {
  const keys = Object.keys(labels);
  if (keys.length === 0) return;
  await $client`
    insert into labels (pool_id, kind, target_id, key, value)
    select ${poolId}, ${kind}, ${targetId}, key, value
    from unnest(${keys}::text[], ${Object.values(labels)}::text[]) as l (key, value)`;
}

/** Takes all labels from a thing that goes. */
export async function deleteLabels(
  { $client }: Transaction,
  poolId: string,
  targetId: string,
): Promise<void> {
  await $client`delete from labels where pool_id = ${poolId} and target_id = ${targetId}`;
}

// Verbs

/** The condition that `id` is one of the things of a page that carry all of what is wanted; none when nothing is. */
export async function carriesLabels(
  connection: Connection,
  id: PgColumn,
  { kind, poolId, wanted }: { kind: LabelledKind; poolId: string | undefined; wanted: LabelSelector[] },
  page: PageRequest,
): Promise<SQL | undefined> {
  if (wanted.length === 0) return undefined;
  const counts = wanted.length === 1
    ? [0]
    : await Promise.all(wanted.map((one) => countCarrying(connection, kind, poolId, one)));
  const rarest = counts.indexOf(Math.min(...counts));
  const rarestFirst = [wanted[rarest], ...wanted.toSpliced(rarest, 1)];
  return sql`${id} = any(array(${selectCarrying(kind, poolId, rarestFirst, page)}))`;
}

/** The ids of the first things of a pool, by id, that carry a label. */
export async function findCarrying(
  connection: Connection,
  kind: LabelledKind,
  poolId: string,
  wanted: LabelSelector,
  itemsMax: number,
): Promise<string[]> {
  const found = selectCarrying(kind, poolId, [wanted], { itemsMax: itemsMax - 1 });
  const rows = await connection.execute<{ target_id: string }>(found);
  return rows.map((row) => row.target_id);
}

/** Changes the labels of a thing whose row is locked. Answers what it then has, or nothing if it had just that. */
export async function patchLabels(
  tx: Transaction,
  poolId: string,
  target: { kind: LabelledKind; targetId: string },
  patch: LabelPatch,
  limits: StorageLimits,
): Promise<Labels | undefined> {
  const found = await selectLabels(tx, poolId, target.targetId);
  const patched = applyLabelPatch(found, patch);
  requireLabels(patched, limits);
  const gone = Object.keys(found).filter((key) => found[key] !== patched[key]);
  const set = Object.entries(patched).filter(([key, value]) => found[key] !== value);
  if (gone.length + set.length === 0) return undefined;
  await removeLabels(tx, poolId, target.targetId, gone);
  await insertLabels(tx, poolId, target, Object.fromEntries(set));
  return patched;
}

/** What labels become by a patch, by key in order. */
export function applyLabelPatch(labels: Labels, patch: LabelPatch): Labels {
  if (patch === null) return {};
  const patched = new Map<string, string | null>([...Object.entries(labels), ...Object.entries(patch)]);
  const kept = [...patched].filter((entry): entry is [string, string] => entry[1] !== null);
  return Object.fromEntries(kept.toSorted(([a], [b]) => a < b ? -1 : 1));
}

/** @throws {StorageError} `invalid-argument` for labels that are too many, or that are none. */
export function requireLabels(labels: Labels, { labelsMax }: StorageLimits): void {
  const entries = Object.entries(labels);
  if (entries.length > labelsMax) {
    throw new StorageError(
      "invalid-argument",
      `Cannot keep ${entries.length} labels: expected at most ${labelsMax}`,
    );
  }
  for (const [key, value] of entries) {
    requireKey(key);
    requireValue(key, value);
  }
}

/**
 * What `key` or `key=value` selects.
 *
 * @throws {StorageError} `invalid-argument` for what no label can be.
 */
export function parseLabelSelector(text: string): LabelSelector {
  const at = text.indexOf("=");
  const key = at < 0 ? text : text.slice(0, at);
  requireKey(key);
  if (at < 0) return { key };
  const value = text.slice(at + 1);
  requireValue(key, value);
  return { key, value };
}

/** What each of `texts` selects, if they are not too many. @throws {StorageError} `invalid-argument`. */
export function parseLabelSelectors(texts: string[], { labelSelectorsMax }: StorageLimits): LabelSelector[] {
  if (texts.length <= labelSelectorsMax) return texts.map(parseLabelSelector);
  throw new StorageError(
    "invalid-argument",
    `Cannot look for ${texts.length} labels at once: expected at most ${labelSelectorsMax}`,
  );
}

function requireKey(key: string): void {
  if (LABEL_KEY_PATTERN.test(key)) return;
  throw new StorageError(
    "invalid-argument",
    "Cannot use this key of a label: expected 1 to 63 letters, digits, dots, underscores, slashes or hyphens",
  );
}

function requireValue(key: string, value: string): void {
  if (value.length <= LABEL_VALUE_LENGTH_MAX && !/\p{Cc}/u.test(value) && value.isWellFormed()) return;
  throw new StorageError(
    "invalid-argument",
    `Cannot use this value of label ${key}: expected at most ${LABEL_VALUE_LENGTH_MAX} characters, none a control character`,
  );
}
