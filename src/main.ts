/**
 * The command line: `snapmark serve | worker | migrate | verify | backup | restore | openapi | demo`.
 */

import { parseArgs } from "@std/cli/parse-args";
import { backUp, restore } from "./commands/backup.ts";
import { demo } from "./commands/demo.ts";
import { migrateDatabase } from "./commands/migrate.ts";
import { writeOpenapi } from "./commands/openapi.ts";
import { serve } from "./commands/serve.ts";
import { verify } from "./commands/verify.ts";
import { verifyReceipt } from "./commands/verify_receipt.ts";
import { work } from "./commands/worker.ts";
import { readConfig } from "./config.ts";

const USAGE = `Usage: main.ts COMMAND
  serve [--no-flusher]   serve HTTP; flush and do what else a worker does unless told not to
  worker                 flush, reclaim, copy, digest, scrub and run schedules in a process of its own
  migrate                bring the database to this version's schema
  verify [--snapshot NAME]
                         check the chain of every pool's audit, and every sealed snapshot's digest against its blocks;
                         or those of one snapshot
  verify --receipt FILE [--key FILE]
                         check a receipt: with an answer of /keys in FILE, or with the database
  backup --to DIR        copy the bundled PostgreSQL's data to a directory; the server has to be stopped
  restore --from DIR     put such a copy in place, in a data directory without a database
  openapi [--check]      write openapi.yaml, or check that it is up to date
  demo [--url URL]       play a snapshot in the middle of writing, on a server of its own or on the one at URL
The environment configures it; README.md has the table.`;

interface Flags {
  readonly flusher: boolean;
  readonly check: boolean;
  readonly url?: string;
  readonly receipt?: string;
  readonly key?: string;
  readonly snapshot?: string;
  readonly to?: string;
  readonly from?: string;
}

const COMMANDS: Record<string, (flags: Flags) => Promise<void>> = {
  serve: ({ flusher }) => serve(readConfig(), { flusher }),
  worker: () => work(readConfig()),
  migrate: () => migrateDatabase(readConfig()),
  verify: ({ receipt, key, snapshot }) => verifyWhat(receipt, key, snapshot),
  backup: ({ to }) => backUp(readConfig(), to),
  restore: ({ from }) => restore(readConfig(), from),
  openapi: ({ check }) => writeOpenapi({ check }),
  demo: ({ url }) => demo(readConfig(), url),
};

async function verifyWhat(receipt?: string, key?: string, snapshot?: string): Promise<void> {
  if (receipt !== undefined) return await verifyReceipt(readConfig(), receipt, key);
  if (key !== undefined) throw new Error("Cannot check a key alone: expected --receipt FILE too");
  await verify(readConfig(), snapshot);
}

/** Runs the command that `args` name and answers the exit code. */
async function main(args: string[]): Promise<number> {
  const unknown: string[] = [];
  const flags = parseArgs(args, {
    boolean: ["flusher", "check", "help"],
    string: ["url", "receipt", "key", "snapshot", "to", "from"],
    negatable: ["flusher"],
    default: { flusher: true },
    unknown: (argument: string, key?: string) => {
      if (key !== undefined) unknown.push(argument);
      return true;
    },
  });
  if (flags.help) {
    console.log(USAGE);
    return 0;
  }
  const command = COMMANDS[String(flags._[0])];
  if (command === undefined || unknown.length > 0 || flags._.length > 1) {
    console.error(unknown.length > 0 ? `Cannot understand ${unknown.join(" ")}\n${USAGE}` : USAGE);
    return 2;
  }
  try {
    await command(flags);
    return 0;
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
