/**
 * Brings a database to this version's schema.
 *
 * `migrations/` holds numbered SQL files, `0001_storage.sql` and so on, that are only ever added to. Each runs once,
 * whole, in one transaction together with its row in `schema_migrations`. An advisory lock makes it safe to start
 * any number of processes at once; a database newer than the code is refused, for its data may mean something else.
 */

import { type Client, type Database, transact } from "./client.ts";

/** Names this lock among the advisory locks of a database; the bytes of "snapmark" would do, so does any constant. */
const MIGRATION_LOCK = 7_370_616_109;
const MIGRATIONS = new URL("../../migrations/", import.meta.url);
/** PostgreSQL 15 is the oldest one that the statements are tested on. */
const SERVER_VERSION_MIN = 150_000;

/**
 * Applies the migrations that `database` lacks and answers their names.
 *
 * @throws {Error} when the server is older than PostgreSQL 15, or the database newer than this code.
 */
export async function migrate(database: Database): Promise<string[]> {
  const migrations = await readMigrations();
  return await transact(database, async ({ $client }) => {
    await requireServerVersion($client);
    await $client`select pg_advisory_xact_lock(${MIGRATION_LOCK})`;
    await $client`
      create table if not exists schema_migrations (
        version integer primary key,
        name text not null,
        applied_at timestamptz not null default now()
      )`;
    const applied = await readVersion($client);
    requireKnownVersion(applied, migrations.length);
    const missing = migrations.slice(applied);
    for (const { version, name, statements } of missing) {
      await $client.unsafe(statements);
      await $client`insert into schema_migrations (version, name) values (${version}, ${name})`;
    }
    return missing.map(({ name }) => name);
  });
}

/** Tells whether `database` is at exactly this code's schema. */
export async function isMigrated(database: Database): Promise<boolean> {
  const migrations = await readMigrations();
  const [row] = await database.$client`select to_regclass('schema_migrations') is not null as present`;
  return row.present && await readVersion(database.$client) === migrations.length;
}

interface Migration {
  version: number;
  name: string;
  statements: string;
}

async function readMigrations(): Promise<Migration[]> {
  const names: string[] = [];
  for await (const file of Deno.readDir(MIGRATIONS)) {
    if (/^\d{4}_\w+\.sql$/.test(file.name)) names.push(file.name);
  }
  return await Promise.all(
    names.sort().map(async (name, index) => {
      if (Number(name.slice(0, 4)) !== index + 1) {
        throw new Error(`Cannot migrate: expected migration ${index + 1}, found ${name}`);
      }
      return { version: index + 1, name, statements: await Deno.readTextFile(new URL(name, MIGRATIONS)) };
    }),
  );
}

async function readVersion(client: Client): Promise<number> {
  const [row] = await client<
    { version: number | null }[]
  >`select max(version) as version from schema_migrations`;
  return row.version ?? 0;
}

async function requireServerVersion(client: Client): Promise<void> {
  const [row] = await client<{ version: number; text: string }[]>`
    select current_setting('server_version_num')::integer as version, current_setting('server_version') as text`;
  if (row.version < SERVER_VERSION_MIN) {
    throw new Error(`Cannot use this database: expected PostgreSQL 15 or newer, found ${row.text}`);
  }
}

function requireKnownVersion(applied: number, known: number): void {
  if (applied > known) {
    throw new Error(
      `Cannot use this database: its schema is version ${applied}, this program knows up to ${known}`,
    );
  }
}
