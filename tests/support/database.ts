/**
 * A database for one test file: cloned from the migrated template, dropped at the end.
 */

import { closeDatabase, type Database, openDatabase } from "../../src/database/client.ts";

/** What `deno task test` migrates once. */
export const TEMPLATE_DATABASE = "snapmark_template";

/** `url` with another database's name. */
export function atDatabase(url: string, name: string): string {
  const parsed = new URL(url);
  parsed.pathname = `/${name}`;
  return parsed.href;
}

/** The PostgreSQL that the tests run on. */
export function testServerUrl(): string {
  const url = Deno.env.get("TEST_DATABASE_URL");
  if (url === undefined) throw new Error("Cannot find the test database: run the tests by `deno task test`");
  return url;
}

export interface TestDatabase extends AsyncDisposable {
  readonly url: string;
  readonly database: Database;
}

/** Makes a database with this version's schema, or with `template: "template1"` an empty one. */
export async function createTestDatabase(template = TEMPLATE_DATABASE): Promise<TestDatabase> {
  const name = `test_${crypto.randomUUID().replaceAll("-", "")}`;
  await asAdmin(`create database ${name} template ${template}`);
  const url = atDatabase(testServerUrl(), name);
  const database = openDatabase(url);
  return {
    url,
    database,
    [Symbol.asyncDispose]: async () => {
      await closeDatabase(database);
      await asAdmin(`drop database ${name} with (force)`);
    },
  };
}

async function asAdmin(statement: string): Promise<void> {
  const admin = openDatabase(testServerUrl(), { connectionsMax: 1 });
  try {
    await admin.$client.unsafe(statement);
  } finally {
    await closeDatabase(admin);
  }
}
