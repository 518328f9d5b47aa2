/**
 * What is there, held against the ledger: after every blow, and at the end.
 *
 * - *Answered*: everything that was answered is there, everything that was refused is not, and of what was not answered all or
 *   nothing. Nothing is there that nobody asked for.
 * - *Exact*: each lane holds its last state, each snapshot the state of each lane that its marker's sequence tells.
 * - *Sealed*: every snapshot seals within a bound, and one that was told sealed is.
 * - *Told*: receipts are what they were, each pool's audit is a chain that goes on from where it ended, and queue, audit, events and
 *   space are as they have to be.
 * - *Once*: no sequence and no id is given twice.
 */

import { assert, assertEquals } from "@std/assert";
import { NO_POOL } from "../../src/storage/audit.ts";
import { verifyChain } from "../../src/storage/audit_chain.ts";
import { isSigned, type Receipt } from "../../src/storage/receipt.ts";
import { assertRecordsAreSound } from "../support/audit_records.ts";
import { assertSpaceIsSound } from "../support/audit_space.ts";
import { until } from "../support/door.ts";
import { readStamps } from "../support/history.ts";
import { isSame, type Lane } from "./lane.ts";
import {
  BLOCK_BYTES,
  type Cover,
  type KnownCopy,
  type KnownSnapshot,
  type KnownVolume,
  type Ledger,
} from "./ledger.ts";

// deno-lint-ignore no-explicit-any -- an answer of the wire
type Body = any;

/** More than there ever is at once. */
const ROWS_MAX = 1_000;
const PAGE = "maxResults=1000";

export class LedgerCheck {
  /** Up to where each pool's audit was checked, as it then ended. */
  readonly #chains = new Map<string, { number: number; hash: string }>();

  constructor(private readonly ledger: Ledger, private readonly pools: readonly string[]) {}

  /** Fails at the first thing that is not as it has to be. */
  async check(): Promise<void> {
    const { caller, bed } = this.ledger;
    for (const pool of this.pools) {
      const { sequenceAppended } = await caller.get(`/pools/${pool}`);
      assert(
        sequenceAppended >= this.ledger.greatest(pool),
        `the queue of ${pool} ends at ${sequenceAppended}`,
      );
    }
    await this.#resolveVolumes();
    await this.#resolveOthers();
    await this.#resolveSnapshots();
    const { sequenceAppended } = await caller.get("/pools/main");
    for (const volume of this.#there(this.ledger.volumes)) await this.#seeLanes(volume, sequenceAppended);
    await this.#awaitSeals();
    for (const snapshot of this.#there(this.ledger.snapshots)) await this.#checkSnapshot(snapshot);
    for (const copy of this.ledger.copies) await this.#checkCopy(copy);
    for (const { lanes } of this.ledger.volumes) for (const lane of lanes) lane.forget();
    await this.#checkReceipts();
    for (const pool of [...this.pools, NO_POOL]) await this.#checkChain(pool);
    await assertSpaceIsSound(bed.database);
    await assertRecordsAreSound(bed.database);
  }

  #there<T extends { presence: string }>(things: T[]): T[] {
    return things.filter(({ presence }) => presence === "there");
  }

  /** Settles what was not answered, and forgets what is gone. Answers which of those that are found nobody knows. */
  #resolve<T extends { name: string; id?: string; presence: string; mayGo?: boolean }>(
    known: T[],
    found: Body[],
  ): Body[] {
    const left = new Set(found);
    for (const thing of [...known]) {
      const body = found.find(({ id, name }) =>
        thing.id === undefined ? name === thing.name : id === thing.id
      );
      const isThere = body !== undefined && body.status !== "cancelled";
      if (body !== undefined) left.delete(body);
      if (thing.presence === "there" && !isThere && !thing.mayGo) throw new Error(`${thing.name} is gone`);
      if (thing.presence === "gone" && isThere) throw new Error(`${thing.name} was deleted and is there`);
      if (isThere && thing.id === undefined) thing.id = this.ledger.addId(body.id);
      thing.presence = isThere ? "there" : "gone";
      // One that is cancelled stays as a record.
      if (!isThere && body === undefined) known.splice(known.indexOf(thing), 1);
    }
    return [...left];
  }

  async #resolveVolumes(): Promise<void> {
    const { volumes } = await this.ledger.caller.get(`/volumes?pool=main&${PAGE}`);
    const unknown = this.#resolve(this.ledger.volumes, volumes);
    assertEquals(unknown.map(({ name }) => name), [], "volumes that nobody asked for");
  }

  async #resolveOthers(): Promise<void> {
    const { caller, schedules, clients, copies } = this.ledger;
    const found = { ...await caller.get(`/schedules?${PAGE}`), ...await caller.get(`/clients?${PAGE}`) };
    assertEquals(this.#resolve(schedules, found.schedules), [], "schedules that nobody asked for");
    assertEquals(this.#resolve(clients, found.clients), [], "clients that nobody asked for");
    for (const copy of copies.filter(({ presence }) => presence === "made?")) {
      const listed = await caller.get(`/snapshots/${copy.snapshot.id}/copies`);
      const [body] = listed.copies;
      if (body === undefined) copies.splice(copies.indexOf(copy), 1);
      else copy.id = this.ledger.addId(body.id);
      copy.presence = "there";
    }
  }

  async #resolveSnapshots(): Promise<void> {
    const { caller, snapshots, schedules } = this.ledger;
    const found: Body[] = (await caller.get(`/snapshots?pool=main&${PAGE}`)).snapshots;
    // A run of which nobody was told may have removed the one before it.
    for (const body of found.filter(({ id }) => !snapshots.some((snapshot) => snapshot.id === id))) {
      const schedule = schedules.find(({ id }) => id === body.scheduleId);
      if (schedule !== undefined) this.ledger.adopt(schedule, body);
    }
    const unknown = this.#resolve(snapshots, found);
    assertEquals(unknown.map(({ name }) => name), [], "snapshots that nobody asked for");
    for (const snapshot of this.#there(snapshots)) {
      const body = await this.#findSnapshot(snapshot);
      if (body === undefined) continue;
      if (snapshot.sequence === undefined) this.ledger.bookSnapshot(snapshot, body);
      assertEquals(body.sequence, snapshot.sequence);
      if (snapshot.sealed) assertEquals(body.status, "sealed", `${snapshot.name} was told sealed`);
      snapshot.receipt ??= body.receipt;
    }
  }

  async #findSnapshot(snapshot: KnownSnapshot): Promise<Body> {
    const path = `/snapshots/${snapshot.id}`;
    if (!snapshot.mayGo) return await this.ledger.caller.get(path);
    const body = await this.ledger.caller.find(path);
    if (body === undefined) snapshot.presence = "gone";
    return body;
  }

  async #seeLanes(volume: KnownVolume, sequenceAppended: number): Promise<void> {
    const blockCount = volume.lanes.reduce((sum, lane) => sum + lane.blockCount, 0);
    const stamps = await this.#read(`/volumes/${volume.id}/blocks/0?count=${blockCount}`);
    for (const lane of volume.lanes) {
      lane.see(stamps.slice(lane.lba, lane.lba + lane.blockCount), sequenceAppended);
    }
  }

  async #read(path: string): Promise<number[]> {
    return readStamps(await this.ledger.caller.get(path), BLOCK_BYTES);
  }

  async #awaitSeals(): Promise<void> {
    const { caller } = this.ledger;
    await until(async () => (await caller.get(`/snapshots?status=pending&${PAGE}`)).snapshots.length === 0);
    for (const snapshot of this.#there(this.ledger.snapshots)) snapshot.sealed = true;
  }

  async #checkSnapshot(snapshot: KnownSnapshot): Promise<void> {
    const isFirst = snapshot.frozen === undefined;
    snapshot.frozen ??= new Map();
    try {
      for (const cover of snapshot.covers) await this.#checkCover(snapshot, cover, isFirst);
    } catch (error) {
      if (snapshot.mayGo && String(error).includes("found nothing")) snapshot.presence = "gone";
      else throw error;
    }
  }

  async #checkCover(
    snapshot: KnownSnapshot,
    { volume, lanes, range }: Cover,
    isFirst: boolean,
  ): Promise<void> {
    const blockCount = lanes.reduce((sum, lane) => sum + lane.blockCount, 0);
    const { lba, blockCount: count } = range ?? { lba: 0, blockCount };
    const stamps = await this.#read(
      `/snapshots/${snapshot.id}/blocks/${lba}?count=${count}&volume=${volume.id}`,
    );
    for (const lane of lanes) {
      const [start, end] = [Math.max(lane.lba, lba), Math.min(lane.lba + lane.blockCount, lba + count)];
      if (start >= end) continue;
      const found = stamps.slice(start - lba, end - lba);
      const allowed = isFirst ? lane.before(snapshot.sequence as number) : [this.#frozen(snapshot, lane)];
      const state = allowed.find((state) => isSame(found, state.slice(start - lane.lba, end - lane.lba)));
      if (state === undefined) {
        throw new Error(
          `Snapshot ${snapshot.name} at ${snapshot.sequence} holds ${found}, expected one of ${
            allowed.map((state) => `[${state.slice(start - lane.lba, end - lane.lba)}]`).join(" ")
          }`,
        );
      }
      snapshot.frozen?.set(lane, state);
    }
  }

  #frozen({ frozen, name }: KnownSnapshot, lane: Lane): readonly number[] {
    const state = frozen?.get(lane);
    if (state === undefined) throw new Error(`Nobody looked at a lane of ${name}`);
    return state;
  }

  /** Who had a copy may be dead; its lease is made to end. */
  async #checkCopy(copy: KnownCopy): Promise<void> {
    const { caller, bed } = this.ledger;
    await bed.database.$client`update copies set leased_until = now() where status = 'running'`;
    await until(async () => {
      return (await caller.get(`/copies/${copy.id}`)).status !== "running";
    });
    const { status, volumeId } = await caller.get(`/copies/${copy.id}`);
    assertEquals(status, "done");
    const [{ lanes }] = copy.snapshot.covers;
    const expected = lanes.flatMap((lane) => this.#frozen(copy.snapshot, lane));
    assertEquals(await this.#read(`/volumes/${volumeId}/blocks/0?count=${expected.length}`), expected);
  }

  async #checkReceipts(): Promise<void> {
    const { caller, snapshots } = this.ledger;
    const { keys } = await caller.get("/keys");
    for (const snapshot of this.#there(snapshots)) {
      const { id, receipt } = snapshot;
      assert(await isSigned(receipt as Receipt, keys), `the receipt of ${id} is signed by nobody`);
      const body = await this.#findSnapshot(snapshot);
      if (body !== undefined) assertEquals(body.receipt, receipt);
      assertEquals((await caller.get(`/audit/${receipt.auditId}`)).chainHash, receipt.chainHash);
    }
  }

  /** The chain goes on from where it ended the last time, with the hash that it had there. */
  async #checkChain(pool: string): Promise<void> {
    const { caller, bed: { database } } = this.ledger;
    const poolId = pool === NO_POOL ? pool : (await caller.get(`/pools/${pool}`)).id;
    const before = this.#chains.get(pool) ?? { number: 0, hash: "0".repeat(64) };
    assertEquals(
      await this.#readHash(poolId, before.number),
      before.hash,
      `the audit of ${pool} was rewritten`,
    );
    let last = await verifyChain(database, poolId, { after: before.number, rowsMax: ROWS_MAX });
    while (last.next !== undefined) {
      last = await verifyChain(database, poolId, { after: last.next, rowsMax: ROWS_MAX });
    }
    assertEquals(last.fault, undefined, `the audit of ${pool} is no chain`);
    this.#chains.set(pool, { number: last.number, hash: last.hash });
  }

  async #readHash(poolId: string, number: number): Promise<string> {
    const [row] = await this.ledger.bed.database.$client<{ hash: string }[]>`
      select encode(chain_hash, 'hex') as hash from audit where pool_id = ${poolId} and chain_number = ${number}
      union all
      select encode(chain_hash, 'hex') from audit_completions where pool_id = ${poolId} and chain_number = ${number}`;
    return row?.hash ?? "0".repeat(64);
  }

  /** Nothing is mapped, staged or to be reclaimed any more. */
  async checkEmpty(): Promise<void> {
    const { caller, bed: { database } } = this.ledger;
    await until(async () => {
      const [{ left }] = await database.$client<{ left: boolean }[]>`
        select exists (select from stagings) or exists (select from reclaims) as left`;
      return !left;
    });
    for (const pool of this.pools) {
      const { mappedBytes, dirtyEntries } = await caller.get(`/pools/${pool}`);
      assertEquals({ pool, mappedBytes, dirtyEntries }, { pool, mappedBytes: 0, dirtyEntries: 0 });
    }
  }

  /** The same by the server itself, from the first row on. */
  async verifyAudit(): Promise<void> {
    const { caller } = this.ledger;
    for (const pool of [...this.pools, NO_POOL]) {
      for (let page: string | undefined = ""; page !== undefined;) {
        const { fault, nextPageToken }: Body = await caller.get(`/audit/verify?pool=${pool}&${PAGE}${page}`);
        assertEquals(fault, undefined, `the audit of ${pool} is no chain`);
        page = nextPageToken === undefined ? undefined : `&pageToken=${nextPageToken}`;
      }
    }
  }
}
