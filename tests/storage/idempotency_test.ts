import { assertEquals, assertRejects } from "@std/assert";
import { STORAGE_LIMITS } from "../../src/config.ts";
import { StorageError } from "../../src/errors.ts";
import type { Claimed, KeyClaim } from "../../src/storage/idempotency.ts";
import type { Storage } from "../../src/storage/storage.ts";
import { createTestStorage, TESTER, type TestStorage } from "../support/storage.ts";

const CLIENT = TESTER.clientId;
const { idempotencyKeptMs, idempotencyLeaseMs } = STORAGE_LIMITS;
const [FIRST, SECOND] = [1, 2].map((byte) => new Uint8Array(32).fill(byte));
const ANSWER = { status: 201, contentType: "application/json", location: "/volumes/1", body: "{}" };

let now = new Date("2026-01-01T00:00:00Z");
const pass = (milliseconds: number) => now = new Date(now.getTime() + milliseconds);

async function createSystem(): Promise<TestStorage> {
  return await createTestStorage({ clock: () => now });
}

function requireClaim(claimed: Claimed): KeyClaim {
  if (claimed.state === "answered") throw new Error("Cannot claim the key: it is answered");
  return claimed.claim;
}

const createVolume = (storage: Storage, name: string, claim: KeyClaim) =>
  storage.createVolume({ ...TESTER, claim }, { name, blockCount: 8 });

async function assertRefused(act: () => Promise<unknown>, code: string): Promise<void> {
  assertEquals((await assertRejects(act, StorageError)).code, code);
}

async function countKeys({ test }: TestStorage): Promise<number> {
  const [{ count }] = await test.database.$client`select count(*) from idempotency_keys`;
  return count;
}

Deno.test("claim() answers what was kept, to the same request of the same client, in every process", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const claim = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  await idempotency.keep(claim, ANSWER);
  const another = (await system.openAnother()).idempotency;
  for (const keys of [idempotency, another]) {
    assertEquals(await keys.claim(CLIENT, "k", FIRST), { state: "answered", answer: ANSWER });
    await assertRefused(() => keys.claim(CLIENT, "k", SECOND), "idempotency-key-reused");
  }
  const other = await idempotency.claim("00000000-0000-7000-8000-0000000000bb", "k", SECOND);
  assertEquals(other.state, "claimed");
});

Deno.test("claim() does not wait for a lease that was taken by a clock that has been set back since", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  pass(3_600_000);
  await idempotency.claim(CLIENT, "k", FIRST);
  pass(-3_600_000);
  assertEquals((await idempotency.claim(CLIENT, "k", FIRST)).state, "claimed");
  // But it does for one by a clock that goes a little ahead of this one.
  pass(1_000);
  await idempotency.claim(CLIENT, "other", FIRST);
  pass(-1_000);
  await assertRefused(() => idempotency.claim(CLIENT, "other", FIRST), "idempotency-key-in-progress");
});

Deno.test("claim() refuses while another attempt has the key, and takes over when its lease is over", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  await idempotency.claim(CLIENT, "k", FIRST);
  pass(idempotencyLeaseMs - 1);
  await assertRefused(() => idempotency.claim(CLIENT, "k", FIRST), "idempotency-key-in-progress");
  await assertRefused(() => idempotency.claim(CLIENT, "k", SECOND), "idempotency-key-reused");
  pass(1);
  await assertRefused(() => idempotency.claim(CLIENT, "k", SECOND), "idempotency-key-reused");
  assertEquals((await idempotency.claim(CLIENT, "k", FIRST)).state, "claimed");
  await assertRefused(() => idempotency.claim(CLIENT, "k", FIRST), "idempotency-key-in-progress");
});

Deno.test("claim() tells whoever takes over what was done, though it was never answered", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const { volumeId, pool } = await createVolume(
    system.storage,
    "v",
    requireClaim(await idempotency.claim(CLIENT, "k", FIRST)),
  );
  await assertRefused(() => idempotency.claim(CLIENT, "k", FIRST), "idempotency-key-in-progress");
  pass(idempotencyLeaseMs);
  const claimed = await (await system.openAnother()).idempotency.claim(CLIENT, "k", FIRST);
  const outcome = { poolId: pool.poolId, action: "volume.create", targetId: volumeId };
  assertEquals(claimed.state === "done" && claimed.outcomes, [outcome] as never);
});

Deno.test("recordOutcome() rolls back an attempt that lost its key, be it taken over or given back", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const slow = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  pass(idempotencyLeaseMs);
  const next = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  await assertRefused(() => createVolume(system.storage, "v", slow), "idempotency-key-in-progress");
  assertEquals((await system.storage.listVolumes(undefined, { itemsMax: 10 })).items, []);
  await idempotency.keep(slow, ANSWER);
  await createVolume(system.storage, "v", next);
  await idempotency.release(next);
  assertEquals((await idempotency.claim(CLIENT, "k", FIRST)).state, "done");

  const given = requireClaim(await idempotency.claim(CLIENT, "given back", FIRST));
  await idempotency.release(given);
  await assertRefused(() => createVolume(system.storage, "w", given), "idempotency-key-in-progress");
});

Deno.test("release() frees the key of what was not done for any request", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const claim = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  await idempotency.release(claim);
  assertEquals((await idempotency.claim(CLIENT, "k", SECOND)).state, "claimed");
  await idempotency.release(claim);
  await assertRefused(() => idempotency.claim(CLIENT, "k", SECOND), "idempotency-key-in-progress");
});

Deno.test("release() waits for a commit that is under way, so that it never forgets what was done", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const claim = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  const { $client } = system.test.database;
  // A lock on what the work does behind its outcome holds it up there, uncommitted.
  const held = Promise.withResolvers<void>();
  const holding = $client.begin(async (sql) => {
    await sql`select from event_heads for update`;
    await held.promise;
  });
  const working = createVolume(system.storage, "v", claim);
  const isBlocked = async (count: number) => {
    const rows = await $client`
      select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
    return rows.length >= count;
  };
  while (!await isBlocked(1));
  const releasing = idempotency.release(claim);
  while (!await isBlocked(2));
  held.resolve();
  await Promise.all([holding, working, releasing]);
  assertEquals((await idempotency.claim(CLIENT, "k", FIRST)).state, "done");
});

Deno.test("keep() leaves an answer that is too long to be made again", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  const claim = requireClaim(await idempotency.claim(CLIENT, "k", FIRST));
  await createVolume(system.storage, "v", claim);
  const body = "x".repeat(STORAGE_LIMITS.idempotencyAnswerCharactersMax + 1);
  await idempotency.keep(claim, { ...ANSWER, body });
  const again = await idempotency.claim(CLIENT, "k", FIRST);
  assertEquals(again.state, "done");
  await idempotency.keep(requireClaim(again), { ...ANSWER, body: body.slice(1) });
  assertEquals((await idempotency.claim(CLIENT, "k", FIRST)).state, "answered");
});

Deno.test("claim() forgets a key after a day, and removes others that are over in bounded steps", async () => {
  await using system = await createSystem();
  const { idempotency } = system.storage;
  for (let index = 0; index < 25; index++) {
    await idempotency.keep(requireClaim(await idempotency.claim(CLIENT, `k${index}`, FIRST)), ANSWER);
    pass(1);
  }
  pass(idempotencyKeptMs - 26);
  assertEquals((await idempotency.claim(CLIENT, "k0", FIRST)).state, "answered");
  pass(25);
  // The youngest is beyond what one step removes, and is forgotten all the same.
  assertEquals((await idempotency.claim(CLIENT, "k24", SECOND)).state, "claimed");
  assertEquals(await countKeys(system), 15);
  for (const key of ["a", "b", "c"]) await idempotency.claim(CLIENT, key, FIRST);
  assertEquals(await countKeys(system), 4);
});

Deno.test("a key's work is done once, whatever attempts of two processes take it from each other", async () => {
  await using system = await createTestStorage({ limits: { idempotencyLeaseMs: 0 } });
  const systems = [system.storage, await system.openAnother({ limits: { idempotencyLeaseMs: 0 } })];
  const attempt = async (storage: Storage, key: string): Promise<boolean> => {
    const claimed = await storage.idempotency.claim(CLIENT, key, FIRST);
    if (claimed.state !== "claimed") return true;
    const actor = { ...TESTER, claim: claimed.claim };
    await storage.takeSnapshot(actor, { description: key, untilSealed: false }, AbortSignal.timeout(60_000));
    return true;
  };
  const refusals = new Set<string>();
  for (let round = 0; round < 20; round++) {
    const key = `k${round}`;
    const attempts = Array.from(
      { length: 8 },
      (_, index) =>
        attempt(systems[index % 2], key).catch((error) => {
          refusals.add((error as StorageError).code);
          return false;
        }),
    );
    await Promise.all(attempts);
    assertEquals(await attempt(systems[round % 2], key), true);
  }
  assertEquals([...refusals], ["idempotency-key-in-progress"]);
  const { items } = await system.storage.listSnapshots({}, { itemsMax: 1_000 });
  assertEquals(
    items.map(({ description }) => description).toSorted(),
    [...Array(20)].map((_, i) => `k${i}`).toSorted(),
  );
});
