/**
 * `deno task test`: starts a PostgreSQL of its own in a temporary directory, migrates a template database, runs
 * `deno test` with it, and cleans up. Arguments go to `deno test`: files, `--filter`, `--fail-fast`.
 *
 * `TEST_DATABASE_URL` names another PostgreSQL to test against (one where databases may be created) instead.
 */

import { closeDatabase, openDatabase } from "../src/database/client.ts";
import { startEmbeddedPostgres } from "../src/database/embedded/embedded_postgres.ts";
import { migrate } from "../src/database/migrate.ts";
import { atDatabase, TEMPLATE_DATABASE } from "./support/database.ts";

const TESTS = new URL(".", import.meta.url).pathname;
const PERMISSIONS = ["net", "read", "write", "run", "env", "sys"].map((name) => `--allow-${name}`);

async function prepareTemplate(url: string): Promise<void> {
  const admin = openDatabase(url);
  try {
    await admin.$client.unsafe(`drop database if exists ${TEMPLATE_DATABASE} with (force)`);
    await admin.$client.unsafe(`create database ${TEMPLATE_DATABASE}`);
  } finally {
    await closeDatabase(admin);
  }
  const template = openDatabase(atDatabase(url, TEMPLATE_DATABASE));
  try {
    await migrate(template);
  } finally {
    await closeDatabase(template);
  }
}

/** Runs the tests and answers their exit code; SIGINT and SIGTERM reach them too. */
async function runTests(url: string, args: string[]): Promise<number> {
  const files = args.some((arg) => !arg.startsWith("-")) ? [] : [TESTS];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "--no-prompt", ...PERMISSIONS, ...args, ...files],
    env: { TEST_DATABASE_URL: url },
  }).spawn();
  const stop = () => child.kill("SIGTERM");
  Deno.addSignalListener("SIGTERM", stop);
  Deno.addSignalListener("SIGINT", () => {});
  return (await child.status).code;
}

async function main(): Promise<number> {
  await using resources = new AsyncDisposableStack();
  let url = Deno.env.get("TEST_DATABASE_URL");
  if (url === undefined) {
    const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
    // PostgreSQL runs as another user when we are root, and has to get through.
    await Deno.chmod(dataDir, 0o711);
    resources.defer(() => Deno.remove(dataDir, { recursive: true }));
    url = resources.use(await startEmbeddedPostgres({ dataDir })).url;
  }
  await prepareTemplate(url);
  return await runTests(url, Deno.args);
}

Deno.exit(await main());
