/**
 * `verify --receipt FILE`: checks a receipt. With `--key FILE`, an answer of `/keys`, neither server nor database are needed; without,
 * the key is the database's, and the record has to be there with the hash that the receipt tells.
 */

import { z } from "zod";
import type { Config } from "../config.ts";
import type { Database } from "../database/client.ts";
import { StorageError } from "../errors.ts";
import { getAuditRecord } from "../storage/audit.ts";
import { isSigned, type PublicKey, Receipts } from "../storage/receipt.ts";
import { findDatabase, untilStopped, useDatabase } from "./process.ts";

const Receipt = z.object({
  poolId: z.string(),
  snapshotId: z.string(),
  auditId: z.string(),
  chainHash: z.string(),
  sequence: z.int(),
  cdb: z.string(),
  keyId: z.string(),
  signature: z.base64(),
});
type Receipt = z.output<typeof Receipt>;
/** A receipt, or the answer that it came in. */
const ReceiptFile = z.union([Receipt, z.object({ receipt: Receipt }).transform(({ receipt }) => receipt)]);
const KeyFile = z.object({
  keys: z.array(z.object({
    kty: z.literal("OKP"),
    crv: z.literal("Ed25519"),
    x: z.string(),
    kid: z.string(),
  })),
});

/** Checks the receipt in a file, and fails if it is not right. */
export async function verifyReceipt(config: Config, file: string, keyFile?: string): Promise<void> {
  const receipt = await readFile(file, ReceiptFile, "a receipt");
  if (keyFile !== undefined) {
    const { keys } = await readFile(keyFile, KeyFile, "keys as /keys answers them");
    await requireSigned(receipt, keys);
    return console.log(describe(receipt));
  }
  await using resources = new AsyncDisposableStack();
  using signals = new DisposableStack();
  const database = useDatabase(resources, await findDatabase(resources, config, untilStopped(signals)));
  await requireSigned(receipt, await new Receipts(database, () => new Date()).listKeys());
  await requireRecorded(database, receipt);
  console.log(`${describe(receipt)}, and the audit has it with this hash`);
}

async function readFile<T extends z.ZodType>(file: string, schema: T, what: string): Promise<z.output<T>> {
  const text = await Deno.readTextFile(file);
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    throw new Error(`Cannot read ${file}: expected ${what}`);
  }
}

async function requireSigned(receipt: Receipt, keys: PublicKey[]): Promise<void> {
  if (await isSigned(receipt, keys)) return;
  throw new Error(`Cannot vouch for this receipt: it is not what was signed with key ${receipt.keyId}`);
}

async function requireRecorded(database: Database, { auditId, chainHash }: Receipt): Promise<void> {
  try {
    const record = await getAuditRecord(database, auditId);
    if (record.chainHash.toHex() === chainHash) return;
  } catch (error) {
    if (!(error instanceof StorageError) || error.code !== "audit-record-not-found") throw error;
  }
  throw new Error(`Cannot vouch for the audit: record ${auditId} is not there with hash ${chainHash}`);
}

function describe({ snapshotId, sequence, auditId }: Receipt): string {
  return `The receipt is right: snapshot ${snapshotId} at sequence ${sequence}, audit record ${auditId}`;
}
