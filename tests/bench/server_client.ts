/**
 * A client of a server under test, for what comes before and after the load: volumes, fills, snapshots, how the pool stands.
 * Every answer that is not a success fails. Load comes from a process of its own ({@linkcode Bed.runClosedLoad}).
 */

import type { BenchServer } from "./bed.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { makeRandomBytes } from "./load_plan.ts";

const ANSWER_MS_MAX = 60_000;
/** A wait for the flusher is answered 504 after 30 seconds, and may be repeated. */
const DRAINS_MAX = 10;
/** The largest request: 4 MiB, and so many writes. */
const REQUEST_BLOCKS_MAX = 1_024;
/** Enough for two commits in flight and one that gathers. */
const REQUESTS_IN_FLIGHT = 4;
/** Blocks of a segment of the first pool. */
const SEGMENT_BLOCKS = 16;

/** How a pool stood, and when. */
export interface PoolMoment {
  readonly at: number;
  readonly sequenceAppended: number;
  readonly dirtyEntries: number;
  readonly dirtyBytes: number;
  readonly freeSegments: number;
}

export class ServerClient {
  constructor(private readonly server: BenchServer) {}

  /** Creates a volume of 4 KiB blocks and answers its id. */
  async createVolume(name: string, blockCount: number, pool = "main"): Promise<string> {
    const { id } = await this.#ask<{ id: string }>("POST", "/volumes", { name, pool, blockCount });
    return id;
  }

  /** Creates a pool with a device of its own. */
  async createPool(name: string, deviceBytes: number, settings: { cacheMode?: string } = {}): Promise<void> {
    await this.#call("POST", "/pools", { name, ...settings });
    await this.#call("POST", "/devices", { name: `${name}-1`, pool: name, sizeBytes: deviceBytes });
  }

  /** Takes a snapshot of a volume and answers its id, at its marker's commit. */
  async takeSnapshot(volume: string): Promise<string> {
    const { id } = await this.#ask<{ id: string }>("POST", "/snapshots", { volumes: [volume] });
    return id;
  }

  /** Compares two snapshots of one volume. @throws when other than so many blocks changed, or it takes several pages. */
  async listChanges(snapshot: string, base: string, blockCount: number): Promise<void> {
    const { changes, nextPageToken } = await this.#ask<
      { changes: { blockCount: number }[]; nextPageToken?: string }
    >(
      "GET",
      `/snapshots/${snapshot}/changes?base=${base}&maxResults=1000`,
    );
    const found = changes.reduce((sum, range) => sum + range.blockCount, 0);
    if (found !== blockCount || nextPageToken !== undefined) {
      throw new Error(`Cannot compare the snapshots: ${found} of ${blockCount} blocks changed`);
    }
  }

  /** Takes a snapshot of a volume and waits for its seal. @throws when that does not come in time. */
  async sealSnapshot(volume: string): Promise<void> {
    const path = "/snapshots?wait=sealed";
    const { status } = await this.#ask<{ status: string }>("POST", path, { volumes: [volume] });
    if (status === "sealed") return;
    throw new Error(`Cannot wait for the seal any longer: the snapshot is ${status}`);
  }

  async readPool(pool = "main"): Promise<PoolMoment> {
    const status = await this.#ask<Omit<PoolMoment, "at">>("GET", `/pools/${pool}`);
    return { at: performance.now(), ...status };
  }

  /** Waits until the server's flusher has flushed all. */
  async drain(pool = "main"): Promise<void> {
    for (let tries = 0; tries < DRAINS_MAX; tries++) {
      const response = await this.#send("POST", `/pools/${pool}/flush`, null);
      await response.body?.cancel();
      if (response.ok) return;
      if (response.status !== 504) throw new Error(`Cannot drain pool ${pool}: answered ${response.status}`);
    }
    throw new Error(`Cannot drain pool ${pool}: not empty after ${DRAINS_MAX} waits`);
  }

  /** Writes blocks `[0, blockCount)` in the largest requests. */
  async fillVolume(volume: string, blockCount: number): Promise<void> {
    await inFlight(cut(blockCount), async ([start, end]) => {
      const path = `/volumes/${volume}/blocks/${start}`;
      await this.#call("PUT", path, makeRandomBytes((end - start) * BLOCK_BYTES));
    });
  }

  /** Writes the first block of each slot, so that every slot is mapped in the open epoch. */
  async mapVolume(volume: string, blockCount: number): Promise<void> {
    await inFlight(cut(Math.ceil(blockCount / SEGMENT_BLOCKS)), async ([start, end]) => {
      const lbas = Array.from({ length: end - start }, (_, index) => (start + index) * SEGMENT_BLOCKS);
      await this.writeBlocks(volume, lbas);
    });
  }

  /** Writes a block to each of `lbas`, in the largest requests. */
  async scatter(volume: string, lbas: Uint32Array): Promise<void> {
    await inFlight(
      cut(lbas.length),
      ([start, end]) => this.writeBlocks(volume, [...lbas.subarray(start, end)]),
    );
  }

  /** Writes single blocks, as one request. */
  async writeBlocks(volume: string, lbas: number[]): Promise<void> {
    const bytes = makeRandomBytes(lbas.length * BLOCK_BYTES);
    const writes = lbas.map((lba, index) => ({
      lba,
      data: bytes.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES).toBase64(),
    }));
    await this.#call("POST", `/volumes/${volume}/writes`, { writes });
  }

  async #call(method: string, path: string, body: unknown): Promise<void> {
    await this.#ask(method, path, body);
  }

  async #ask<T>(method: string, path: string, body: unknown = null): Promise<T> {
    const response = await this.#send(method, path, body);
    if (response.ok) return await response.json();
    throw new Error(`${method} ${path} was answered ${response.status}: ${await response.text()}`);
  }

  #send(method: string, path: string, body: unknown): Promise<Response> {
    const octets = body instanceof Uint8Array;
    const type = octets ? "application/octet-stream" : "application/json";
    return fetch(`${this.server.url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.server.token}`,
        ...(body === null ? {} : { "content-type": type }),
      },
      body: octets ? body as Uint8Array<ArrayBuffer> : body === null ? null : JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
  }
}

/** `[0, count)` in half-open ranges of at most what one request takes. */
function cut(count: number): [start: number, end: number][] {
  return Array.from({ length: Math.ceil(count / REQUEST_BLOCKS_MAX) }, (_, index) => {
    const start = index * REQUEST_BLOCKS_MAX;
    return [start, Math.min(count, start + REQUEST_BLOCKS_MAX)];
  });
}

async function inFlight<T>(items: T[], act: (item: T) => Promise<void>): Promise<void> {
  const next = items.values();
  const lane = async () => {
    for (const item of next) await act(item);
  };
  await Promise.all(Array.from({ length: REQUESTS_IN_FLIGHT }, lane));
}
