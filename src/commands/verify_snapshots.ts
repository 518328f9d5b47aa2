/**
 * `verify`, the part of it that reads sealed snapshots: counts the digest of each from its blocks and compares it with the one that it
 * has. It only reads; what it finds is told here, and nowhere else.
 */

import { STORAGE_LIMITS } from "../config.ts";
import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { digestVolumes, emptyChain, finishDigest, isSameDigest } from "../storage/contents_digest.ts";
import type { CoveredVolume } from "../storage/covered.ts";
import { extendDigest, openCovered } from "../storage/digested_contents.ts";
import { PASSING_FAULTS } from "../storage/fault.ts";
import { getSnapshot, listSnapshots, type Snapshot } from "../storage/snapshot.ts";

/** What was found of all that was looked at. */
export interface FoundSnapshots {
  readonly intact: number;
  readonly damaged: number;
  /** Not looked at, for there is nothing to compare with yet. */
  readonly undigested: number;
}

type Finding = keyof FoundSnapshots | "gone";

/** What tells nothing of the blocks. */
const UNJUDGED: ReadonlySet<string> = new Set([...PASSING_FAULTS, "snapshot-not-found"]);
const SNAPSHOTS_MAX = 100;
/** Time between two lines about a volume that takes long. */
const PROGRESS_MS = 10_000;

/** Verifies every sealed snapshot, printing a line for each. */
export async function verifySnapshots(database: Database): Promise<FoundSnapshots> {
  const found = { intact: 0, damaged: 0, undigested: 0 };
  for await (const snapshot of allSealed(database)) {
    const finding = await verifySnapshot(database, snapshot);
    if (finding !== "gone") found[finding] += 1;
  }
  return found;
}

/**
 * Verifies one, by its id or name.
 *
 * @throws {Error} when it is damaged, or has no digest.
 */
export async function verifyOneSnapshot(database: Database, reference: string): Promise<void> {
  const finding = await verifySnapshot(database, await getSnapshot(database, reference));
  if (finding !== "intact") {
    throw new Error(
      `Cannot vouch for snapshot ${reference}: ${
        finding === "undigested" ? "it has no digest yet" : `it is ${finding}`
      }`,
    );
  }
}

async function* allSealed(database: Database): AsyncGenerator<Snapshot> {
  let after: string | undefined;
  do {
    const page = await listSnapshots(database, { status: "sealed", labels: [] }, {
      itemsMax: SNAPSHOTS_MAX,
      ...(after === undefined ? {} : { after }),
    });
    yield* page.items;
    after = page.next;
  } while (after !== undefined);
}

/** Prints what was found of a snapshot. */
async function verifySnapshot(database: Database, snapshot: Snapshot): Promise<Finding> {
  const { snapshotId, name, pool, digest } = snapshot;
  const called = `Snapshot ${name === undefined ? "" : `${name} `}(${snapshotId}) of pool ${pool.name}`;
  if (digest === undefined) {
    console.log(`${called}: no digest yet`);
    return "undigested";
  }
  try {
    const faults = await findFaults(database, snapshot, digest, called);
    for (const fault of faults) console.log(`${called}: ${fault}`);
    if (faults.length === 0) console.log(`${called}: the blocks fit digest ${digest.toHex()}`);
    return faults.length === 0 ? "intact" : "damaged";
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== "snapshot-not-found") throw error;
    console.log(`${called}: deleted meanwhile`);
    return "gone";
  }
}

async function findFaults(
  database: Database,
  snapshot: Snapshot,
  expected: Uint8Array,
  called: string,
): Promise<string[]> {
  const faults: string[] = [];
  const digests: { volumeId: string; digest: Uint8Array }[] = [];
  for (const covered of snapshot.volumes) {
    const { volumeId, digest } = covered;
    const found = await readVolume(database, snapshot, covered, `${called}: volume ${volumeId}`);
    if (typeof found === "string") faults.push(`volume ${volumeId} cannot be read: ${found}`);
    else if (digest === undefined || !isSameDigest(digest, found)) {
      faults.push(
        `volume ${volumeId} has digest ${found.toHex()}, expected ${digest?.toHex() ?? "none"}`,
      );
    }
    if (digest !== undefined) digests.push({ volumeId, digest });
  }
  if (faults.length === 0 && !isSameDigest(await digestVolumes(digests), expected)) {
    faults.push(`its digest ${expected.toHex()} is not that of its volumes`);
  }
  return faults;
}

/** The digest of a volume as its blocks have it, or why they cannot be read. */
async function readVolume(
  database: Database,
  { pool, snapshotId }: Snapshot,
  covered: CoveredVolume,
  called: string,
): Promise<Uint8Array | string> {
  const { volumeBlocks } = covered;
  let chain = emptyChain() as Uint8Array;
  let toldAt = performance.now();
  try {
    const contents = await openCovered(database, pool, snapshotId, covered);
    for (let position: number | undefined = 0; position !== undefined;) {
      const extended = await extendDigest(contents, position, chain, STORAGE_LIMITS.digestStepBytes);
      chain = extended.chain;
      position = extended.next;
      if (position === undefined || performance.now() - toldAt < PROGRESS_MS) continue;
      console.log(`${called}: block ${position} of ${volumeBlocks}`);
      toldAt = performance.now();
    }
  } catch (error) {
    if (!(error instanceof StorageError) || UNJUDGED.has(error.code)) throw error;
    return error.message;
  }
  return await finishDigest(chain, volumeBlocks * pool.blockSizeBytes);
}
