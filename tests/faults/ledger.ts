/**
 * The ledger: clients of a server that is killed at, and the book that they keep. Each request is written down before it is sent, and
 * again when it was answered; {@linkcode LedgerCheck} holds what is there against it.
 *
 * Each thing has a name of its own, so one whose request was never answered is found, or not, by that. Each lane of blocks has
 * one owner, who has one request at a time.
 */

import { encodeDiff } from "../../src/http/rbd_diff.ts";
import { fill } from "../support/history.ts";
import { Caller, type Outcome, Struck } from "./kill_caller.ts";
import type { KillBed } from "./kill_bed.ts";
import { Lane } from "./lane.ts";

export const BLOCK_BYTES = 4096;
/** Slots of 16 blocks: some lanes begin and end inside of one. */
export const LANE_BLOCKS = 24;

/** Whether something is there; `made` and `removed` that nobody knows whether it was. */
export type Presence = "there" | "gone" | "made?" | "removed?";

export interface Thing {
  readonly name: string;
  id?: string;
  presence: Presence;
}

export interface KnownVolume extends Thing {
  readonly pool: string;
  lanes: Lane[];
}

/** What a snapshot covers of a volume: all of it, or some blocks. */
export interface Cover {
  readonly volume: KnownVolume;
  readonly lanes: readonly Lane[];
  readonly range?: { readonly lba: number; readonly blockCount: number };
}

// deno-lint-ignore no-explicit-any -- an answer of the wire
type Body = any;

export interface KnownSnapshot extends Thing {
  readonly pool: string;
  readonly covers: readonly Cover[];
  sequence?: number;
  /** A client was told that it is sealed. */
  sealed: boolean;
  /** Its schedule keeps only a later one. */
  mayGo?: boolean;
  receipt?: Body;
  /** What each lane held, once that was seen. */
  frozen?: Map<Lane, readonly number[]>;
}

export interface KnownCopy {
  readonly snapshot: KnownSnapshot;
  readonly target: string;
  id?: string;
  presence: Presence;
}

export interface KnownSchedule extends Thing {
  readonly covers: readonly Cover[];
  last?: KnownSnapshot;
}

export type PartOfWrite = { readonly lba: number; readonly count: number } | {
  readonly lba: number;
  readonly trim: number;
};

export class Ledger {
  readonly volumes: KnownVolume[] = [];
  readonly snapshots: KnownSnapshot[] = [];
  readonly copies: KnownCopy[] = [];
  readonly schedules: KnownSchedule[] = [];
  readonly clients: Thing[] = [];
  /** Of all that ever was, so that none is given twice. */
  readonly ids = new Set<string>();
  readonly caller: Caller;
  /** The greatest sequence of each pool that a client was told. */
  readonly #greatest = new Map<string, number>();
  /** The sequences that requests and markers of a pool have. */
  readonly #sequences = new Set<string>();
  #stamp = 0;
  #names = 0;

  constructor(readonly bed: KillBed) {
    this.caller = new Caller(bed);
  }

  greatest(pool: string): number {
    return this.#greatest.get(pool) ?? 0;
  }

  newName(kind: string): string {
    return `${kind}-${++this.#names}`;
  }

  addId(id: string): string {
    if (this.ids.has(id)) throw new Error(`The id ${id} was given twice`);
    this.ids.add(id);
    return id;
  }

  /** Books a sequence that was told. */
  addSequence(pool: string, sequence: number): number {
    const key = `${pool} ${sequence}`;
    if (this.#sequences.has(key)) throw new Error(`Sequence ${sequence} of pool ${pool} was given twice`);
    this.#sequences.add(key);
    this.#greatest.set(pool, Math.max(this.greatest(pool), sequence));
    return sequence;
  }

  // Volumes

  async createVolume(laneCount: number, pool = "main"): Promise<KnownVolume> {
    const zeros = new Array(LANE_BLOCKS).fill(0);
    const lanes = Array.from({ length: laneCount }, (_, index) => new Lane(index * LANE_BLOCKS, zeros));
    return await this.#makeVolume({ name: this.newName("v"), pool, lanes, presence: "made?" }, {
      blockCount: laneCount * LANE_BLOCKS,
    });
  }

  /** A clone has the state that its source's lanes had. */
  async clone(snapshot: KnownSnapshot): Promise<KnownVolume> {
    const { lanes, volume } = snapshot.covers[0];
    const copied = lanes.map((lane) => new Lane(lane.lba, this.#stateIn(snapshot, lane)));
    return await this.#makeVolume(
      { name: this.newName("c"), pool: snapshot.pool, lanes: copied, presence: "made?" },
      { source: { snapshot: snapshot.name, volume: volume.id } },
    );
  }

  async #makeVolume(volume: KnownVolume, body: object): Promise<KnownVolume> {
    this.volumes.push(volume);
    const { name, pool } = volume;
    const outcome = await this.caller.call("POST", "/volumes", { name, pool, ...body });
    this.#book(outcome, volume, this.volumes);
    return volume;
  }

  async deleteVolume(volume: KnownVolume): Promise<void> {
    await this.#remove(volume, `/volumes/${volume.id}`);
  }

  async #remove(thing: Thing, path: string): Promise<void> {
    thing.presence = "removed?";
    const outcome = await this.caller.call("DELETE", path);
    if (outcome.kind === "unknown") throw new Struck();
    thing.presence = outcome.kind === "done" ? "gone" : "there";
    if (outcome.kind === "refused") throw new Struck();
  }

  /** Books how a thing came about. Whoever was not told goes no further. */
  #book<T extends Thing | KnownCopy>(outcome: Outcome, thing: T, among: T[]): void {
    if (outcome.kind === "done") {
      thing.id = this.addId(outcome.body.id);
      thing.presence = "there";
      return;
    }
    if (outcome.kind === "refused") among.splice(among.indexOf(thing), 1);
    throw new Struck();
  }

  // Blocks

  /** One write of blocks with new stamps. */
  async write(volume: KnownVolume, lane: Lane, lba: number, count: number): Promise<void> {
    const [part] = this.#stampParts([{ lba, count }]);
    await this.#append(volume, lane, [part], () => {
      const path = `/volumes/${volume.name}/blocks/${lane.lba + lba}`;
      return this.caller.call("PUT", path, fill(part.first, count, BLOCK_BYTES));
    });
  }

  async trim(volume: KnownVolume, lane: Lane, lba: number, count: number): Promise<void> {
    await this.#append(
      volume,
      lane,
      [{ lba, count, first: 0 }],
      () => this.caller.call("DELETE", `/volumes/${volume.name}/blocks/${lane.lba + lba}?count=${count}`),
    );
  }

  /** Several as one. */
  async writeMany(volume: KnownVolume, lane: Lane, parts: PartOfWrite[]): Promise<void> {
    const stamped = this.#stampParts(parts);
    const writes = stamped.map(({ lba, count, first }) =>
      first === 0
        ? { lba: lane.lba + lba, trim: count }
        : { lba: lane.lba + lba, data: fill(first, count, BLOCK_BYTES).toBase64() }
    );
    await this.#append(
      volume,
      lane,
      stamped,
      () => this.caller.call("POST", `/volumes/${volume.name}/writes`, { writes }),
    );
  }

  #stampParts(parts: PartOfWrite[]): { lba: number; count: number; first: number }[] {
    return parts.map((part) => {
      if ("trim" in part) return { lba: part.lba, count: part.trim, first: 0 };
      const first = this.#stamp + 1;
      this.#stamp += part.count;
      return { ...part, first };
    });
  }

  async #append(
    { pool }: KnownVolume,
    lane: Lane,
    parts: { lba: number; count: number; first: number }[],
    send: () => Promise<Outcome>,
  ): Promise<void> {
    const stamps = [...lane.stamps];
    for (const { lba, count, first } of parts) {
      for (let block = 0; block < count; block++) stamps[lba + block] = first === 0 ? 0 : first + block;
    }
    const after = this.greatest(pool);
    const outcome = await send();
    if (outcome.kind === "unknown") lane.unanswered(stamps, after);
    if (outcome.kind !== "done") throw new Struck();
    lane.answered(stamps, this.addSequence(pool, outcome.body.sequence), after);
  }

  // Snapshots

  /** One cut of whole volumes. `untilSealed`: it is answered when it is sealed. */
  async snapshot(volumes: KnownVolume[], untilSealed = false): Promise<KnownSnapshot> {
    const snapshot = this.#newSnapshot("s", volumes.map((volume) => ({ volume, lanes: volume.lanes })));
    return await this.#take(snapshot, { volumes: volumes.map(({ name }) => name) }, untilSealed);
  }

  /** One cut of a few blocks of each volume. */
  async snapshotRanges(volumes: KnownVolume[], untilSealed = false): Promise<KnownSnapshot> {
    const range = { lba: 5, blockCount: LANE_BLOCKS };
    const snapshot = this.#newSnapshot(
      "r",
      volumes.map((volume) => ({ volume, lanes: volume.lanes, range })),
    );
    return await this.#take(
      snapshot,
      { ranges: volumes.map(({ name }) => ({ volume: name, ...range })) },
      untilSealed,
    );
  }

  #newSnapshot(kind: string, covers: Cover[]): KnownSnapshot {
    const { pool } = covers[0].volume;
    const snapshot = { name: this.newName(kind), pool, covers, presence: "made?" as const, sealed: false };
    this.snapshots.push(snapshot);
    return snapshot;
  }

  async #take(snapshot: KnownSnapshot, body: object, untilSealed: boolean): Promise<KnownSnapshot> {
    const { name, pool } = snapshot;
    const path = untilSealed ? "/snapshots?wait=sealed" : "/snapshots";
    const outcome = await this.caller.call("POST", path, { name, pool, ...body });
    this.#book(outcome, snapshot, this.snapshots);
    if (outcome.kind === "done") this.bookSnapshot(snapshot, outcome.body);
    return snapshot;
  }

  /** Books what is told of a snapshot for the first time. */
  bookSnapshot(snapshot: KnownSnapshot, body: Body): void {
    snapshot.presence = "there";
    snapshot.sequence = this.addSequence(snapshot.pool, body.sequence);
    snapshot.sealed = body.status === "sealed";
    snapshot.receipt = body.receipt;
  }

  /** Cancels it while it is pending. */
  async deleteSnapshot(snapshot: KnownSnapshot): Promise<void> {
    await this.#remove(snapshot, `/snapshots/${snapshot.id}`);
  }

  /** The only state that a snapshot can have of a lane, when all of the lane's requests were answered. */
  #stateIn({ sequence, frozen }: KnownSnapshot, lane: Lane): readonly number[] {
    const known = frozen?.get(lane);
    if (known !== undefined) return known;
    const [state, ...others] = lane.before(sequence as number);
    if (others.length > 0) throw new Error("Nobody knows what is in the snapshot");
    return state;
  }

  // Contents as a whole

  /** Goes back to a snapshot of all of the volume, with one of how it stands. */
  async revert(volume: KnownVolume, to: KnownSnapshot): Promise<KnownSnapshot> {
    const safety = this.#newSnapshot("safety", [{ volume, lanes: volume.lanes }]);
    const states = volume.lanes.map((lane) => this.#stateIn(to, lane));
    return await this.#replace(
      volume,
      safety,
      states,
      0.5,
      () =>
        this.caller.call("POST", `/volumes/${volume.name}/revert`, {
          snapshot: to.id,
          safetyName: safety.name,
        }),
    );
  }

  /** Takes new contents for a volume, of which a snapshot is taken. */
  async import(volume: KnownVolume): Promise<KnownSnapshot> {
    const imported = this.#newSnapshot("import", [{ volume, lanes: volume.lanes }]);
    const states = volume.lanes.map(({ blockCount }) => {
      const [{ first }] = this.#stampParts([{ lba: 0, count: blockCount }]);
      return Array.from({ length: blockCount }, (_, block) => first + block);
    });
    const body = await encode(states);
    const path = `/volumes/${volume.name}/import?snapshot=${imported.name}`;
    return await this.#replace(volume, imported, states, -0.5, () => this.caller.call("POST", path, body));
  }

  /** @param step where the new contents came, seen from the marker of the snapshot that is taken with them. */
  async #replace(
    volume: KnownVolume,
    snapshot: KnownSnapshot,
    states: (readonly number[])[],
    step: number,
    send: () => Promise<Outcome>,
  ): Promise<KnownSnapshot> {
    const after = this.greatest(volume.pool);
    const outcome = await send();
    if (outcome.kind === "unknown") {
      for (const [index, lane] of volume.lanes.entries()) lane.unanswered(states[index], after);
      throw new Struck();
    }
    if (outcome.kind === "refused") {
      this.snapshots.splice(this.snapshots.indexOf(snapshot), 1);
      throw new Struck();
    }
    const { sequence, snapshotId = outcome.body.safetySnapshotId } = outcome.body;
    for (const [index, lane] of volume.lanes.entries()) lane.answered(states[index], sequence + step, after);
    snapshot.id = this.addId(snapshotId);
    snapshot.presence = "there";
    snapshot.sequence = this.addSequence(volume.pool, sequence);
    return snapshot;
  }

  // What works on snapshots

  async copy(snapshot: KnownSnapshot, pool: string): Promise<KnownCopy> {
    const copy: KnownCopy = { snapshot, target: this.newName("mirror"), presence: "made?" };
    this.copies.push(copy);
    const path = `/snapshots/${snapshot.id}/copies`;
    const outcome = await this.caller.call("POST", path, { pool, name: copy.target });
    this.#book(outcome, copy, this.copies);
    return copy;
  }

  async createSchedule(volume: KnownVolume): Promise<KnownSchedule> {
    const covers = [{ volume, lanes: volume.lanes }];
    const schedule: KnownSchedule = { name: this.newName("schedule"), covers, presence: "made?" };
    this.schedules.push(schedule);
    const body = { name: schedule.name, volumes: [volume.name], every: "P1D", keep: { last: 1 } };
    this.#book(await this.caller.call("POST", "/schedules", body), schedule, this.schedules);
    return schedule;
  }

  /** One that is never told is found by its schedule. */
  async run(schedule: KnownSchedule): Promise<KnownSnapshot> {
    const outcome = await this.caller.call("POST", `/schedules/${schedule.id}/run`);
    if (outcome.kind !== "done") throw new Struck();
    return this.adopt(schedule, outcome.body);
  }

  /** Books a snapshot that a schedule has taken, which keeps the last one. */
  adopt(schedule: KnownSchedule, body: Body): KnownSnapshot {
    const { covers, last } = schedule;
    if (last !== undefined) last.mayGo = true;
    const snapshot: KnownSnapshot = {
      name: body.name,
      pool: "main",
      covers,
      presence: "there",
      sealed: false,
    };
    this.snapshots.push(snapshot);
    snapshot.id = this.addId(body.id);
    this.bookSnapshot(snapshot, body);
    schedule.last = snapshot;
    return snapshot;
  }

  async deleteSchedule(schedule: KnownSchedule): Promise<void> {
    await this.#remove(schedule, `/schedules/${schedule.id}`);
  }

  async createClient(): Promise<Thing> {
    const client: Thing = { name: this.newName("client"), presence: "made?" };
    this.clients.push(client);
    this.#book(
      await this.caller.call("POST", "/clients", { name: client.name, scopes: ["write"] }),
      client,
      this.clients,
    );
    return client;
  }

  async revokeClient(client: Thing): Promise<void> {
    await this.#remove(client, `/clients/${client.id}`);
  }
}

async function encode(states: (readonly number[])[]): Promise<Uint8Array<ArrayBuffer>> {
  const blocks = states.flat();
  async function* records() {
    yield await Promise.resolve({ offsetBytes: 0, data: fill(blocks[0], blocks.length, BLOCK_BYTES) });
  }
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for await (const part of encodeDiff({ sizeBytes: blocks.length * BLOCK_BYTES }, records())) {
    parts.push(part.slice());
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
