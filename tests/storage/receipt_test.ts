/** Receipts: what is signed can be checked by anyone, and nothing else passes for it. */

import { assertEquals, assertNotEquals } from "@std/assert";
import { isSigned, type Receipt, Receipts } from "../../src/storage/receipt.ts";
import { createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

async function takeReceipt({ storage }: TestStorage, name: string): Promise<Receipt> {
  const snapshot = await storage.takeSnapshot(
    TESTER,
    { pool: "main", name, untilSealed: false },
    AbortSignal.timeout(60_000),
  );
  return await storage.receipts.sign(snapshot);
}

Deno.test("a receipt is signed over the bytes that are documented, and tells what the audit has", async () => {
  await using system = await createTestStorage();
  const receipt = await takeReceipt(system, "s");
  const { keyId, signature, ...signed } = receipt;
  const [{ kid, ...jwk }] = await system.storage.receipts.listKeys();
  assertEquals(kid, keyId);
  const record = await system.storage.getAuditRecord(receipt.auditId);
  const { chainHash, poolId, targetId, command } = record;
  assertEquals(signed, {
    poolId,
    snapshotId: targetId,
    auditId: record.auditId,
    chainHash: chainHash.toHex(),
    sequence: command!.markerSequence,
    cdb: command!.cdb.toHex(),
  });
  const { auditId, snapshotId, sequence, cdb } = signed;
  const bytes = new TextEncoder().encode(
    `7:receipt,36:${poolId},36:${snapshotId},36:${auditId},64:${chainHash.toHex()},1:${sequence},12:${cdb},`,
  );
  const key = await crypto.subtle.importKey("jwk", jwk, "Ed25519", true, ["verify"]);
  assertEquals(
    await crypto.subtle.verify("Ed25519", key, Uint8Array.fromBase64(signature), bytes),
    true,
  );
});

Deno.test("a receipt of which anything was changed is not right, nor one by another key", async () => {
  await using system = await createTestStorage();
  const [receipt, other] = [await takeReceipt(system, "a"), await takeReceipt(system, "b")];
  const keys = await system.storage.receipts.listKeys();
  assertEquals(await isSigned(receipt, keys), true);
  const { poolId } = receipt;
  for (
    const changed of [
      { poolId: other.auditId },
      { snapshotId: other.snapshotId },
      { auditId: other.auditId },
      { chainHash: other.chainHash },
      { sequence: other.sequence },
      { cdb: "c00100000000" },
      { signature: other.signature },
      { signature: "" },
      { keyId: "other" },
    ]
  ) assertEquals(await isSigned({ ...receipt, ...changed }, keys), false, JSON.stringify(changed));
  await using elsewhere = await createTestStorage();
  assertEquals((await takeReceipt(elsewhere, "s")).poolId === poolId, false);
  assertEquals(await isSigned(receipt, await elsewhere.storage.receipts.listKeys()), false);
  const [{ kid }] = keys;
  const [foreign] = await elsewhere.storage.receipts.listKeys();
  assertEquals(await isSigned(receipt, [{ ...foreign, kid }]), false);
});

Deno.test("processes that start at the same time share one key, and it is the same after a restart", async () => {
  await using system = await createTestStorage();
  const open = () => new Receipts(system.test.database, () => new Date()).listKeys();
  const found = await Promise.all(Array.from({ length: 6 }, open));
  assertEquals(new Set(found.map(([{ x }]) => x)).size, 1);
  assertEquals(await open(), found[0]);
  await using elsewhere = await createTestStorage();
  assertNotEquals((await elsewhere.storage.receipts.listKeys())[0].x, found[0][0].x);
});

Deno.test("a key that could not be read is asked for again, and no answer has the private one", async () => {
  await using system = await createTestStorage();
  const { $client } = system.test.database;
  const receipts = new Receipts(system.test.database, () => new Date());
  await $client`alter table signing_keys rename to gone`;
  assertEquals(await receipts.listKeys().catch(() => "failed"), "failed");
  await $client`alter table gone rename to signing_keys`;
  const [key] = await receipts.listKeys();
  assertEquals(Object.keys(key), ["kty", "crv", "x", "kid"]);
});
