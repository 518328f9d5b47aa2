/**
 * `verify`: checks the chain of every pool's audit and the digest of every sealed snapshot, and fails naming the first row of each
 * chain that does not fit, and each volume of which a snapshot's blocks do not.
 */

import type { Config } from "../config.ts";
import type { Database } from "../database/client.ts";
import { isMigrated } from "../database/migrate.ts";
import { NO_POOL } from "../storage/audit.ts";
import { type VerifiedChain, verifyChain } from "../storage/audit_chain.ts";
import { listPools } from "../storage/pool.ts";
import { describeDatabase, findDatabase, untilStopped, useDatabase } from "./process.ts";
import { verifyOneSnapshot, verifySnapshots } from "./verify_snapshots.ts";

/** Rows read at once, some 1 KiB each but for data-out. */
const ROWS_MAX = 1_000;
const POOLS_MAX = 100;

/** Verifies all, or one snapshot; starts the bundled PostgreSQL for it when none runs. */
export async function verify(config: Config, snapshot?: string): Promise<void> {
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const database = useDatabase(resources, await findDatabase(resources, config, untilStopped(signals)));
  if (!await isMigrated(database)) {
    throw new Error(
      `Cannot verify ${describeDatabase(config)}: expected this version's schema; migrate first`,
    );
  }
  if (snapshot !== undefined) return await verifyOneSnapshot(database, snapshot);
  const problems = [...await verifyChains(database), ...await verifyDigests(database)];
  if (problems.length > 0) throw new Error(problems.join("\n"));
}

async function verifyChains(database: Database): Promise<string[]> {
  let [chainCount, faultCount] = [0, 0];
  for await (const pool of allChains(database)) {
    chainCount += 1;
    if (!await verifyPool(database, pool)) faultCount += 1;
  }
  return faultCount === 0
    ? []
    : [`Cannot vouch for the audit: ${faultCount} of ${chainCount} chains do not fit`];
}

async function verifyDigests(database: Database): Promise<string[]> {
  const { intact, damaged, undigested } = await verifySnapshots(database);
  console.log(`Snapshots: ${intact} fit their digest, ${damaged} do not, ${undigested} have none yet`);
  return damaged === 0
    ? []
    : [`Cannot vouch for the snapshots: ${damaged} of ${intact + damaged} do not fit their digest`];
}

/** The pools, and what is of none. */
async function* allChains(database: Database): AsyncGenerator<{ poolId: string; name: string }> {
  yield { poolId: NO_POOL, name: "(none)" };
  let after: string | undefined;
  do {
    const page = await listPools(database, {
      itemsMax: POOLS_MAX,
      ...(after === undefined ? {} : { after }),
    });
    yield* page.items;
    after = page.next;
  } while (after !== undefined);
}

/** Prints what was found of a pool, and tells whether it is right. */
async function verifyPool(
  database: Database,
  { poolId, name }: { poolId: string; name: string },
): Promise<boolean> {
  let rowCount = 0;
  for (let after: number | undefined = 0; after !== undefined;) {
    const part = await verifyChain(database, poolId, { after, rowsMax: ROWS_MAX });
    rowCount += part.rowCount;
    if (part.fault !== undefined) {
      console.log(`Pool ${name}: ${describeFault(part.fault)}`);
      return false;
    }
    if (part.next === undefined) {
      console.log(`Pool ${name}: ${rowCount} rows of the audit fit, up to hash ${part.hash}`);
    }
    after = part.next;
  }
  return true;
}

function describeFault({ number, auditId, reason }: NonNullable<VerifiedChain["fault"]>): string {
  const row = `row ${number} of the audit${auditId === undefined ? "" : ` (${auditId})`}`;
  return {
    changed: `${row} was changed`,
    missing: `${row} is missing`,
    unexpected: `${row} was put in`,
  }[reason];
}
