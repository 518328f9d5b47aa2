/**
 * A client of a server's HTTP door: JSON in, JSON out, and every answer that is not a success fails.
 *
 * It sets benches up and times single requests; load comes from a process of its own ({@linkcode Bed.runClosedLoad}).
 */

import type { BenchServer } from "./bed.ts";
import { BLOCK_BYTES, takeBlock } from "./block_contents.ts";

/** Longest wait for an answer: a server waits up to 30 seconds for its flusher. */
const ANSWER_MS_MAX = 60_000;
/** Flushes of one drain: each is answered when done, or after 30 seconds. */
const FLUSHES_MAX = 10;
/** Writes of one request: in base64 just below the server's bound. */
const WRITES_MAX = 1_024;
/** Requests that wait for their answer at the same time while a volume is filled. */
const FILL_REQUESTS_IN_FLIGHT = 4;

/** What a pool tells of its queue. */
export interface PoolStatus {
  readonly sequenceAppended: number;
  readonly sequenceFlushed: number;
  readonly dirtyEntries: number;
  readonly dirtyBytes: number;
}

export class DoorClient {
  constructor(private readonly server: BenchServer) {}

  /** Creates a volume of 4 KiB blocks and answers its id. */
  async createVolume(name: string, blockCount: number, pool = "main"): Promise<string> {
    const { id } = await this.#send("POST", "/volumes", {
      name,
      pool,
      sizeBytes: blockCount * BLOCK_BYTES,
    }) as {
      id: string;
    };
    return id;
  }

  /** Creates a pool with a device of its own. */
  async createPool(name: string, deviceBytes: number): Promise<void> {
    await this.#send("POST", "/pools", { name });
    await this.#send("POST", "/devices", { name: `${name}-1`, pool: name, sizeBytes: deviceBytes });
  }

  async getPool(pool = "main"): Promise<PoolStatus> {
    return await this.#send("GET", `/pools/${pool}`) as PoolStatus;
  }

  /** Writes one block to each of `lbas`, as an entry of its own. */
  async writeBlocks(volume: string, lbas: Uint32Array): Promise<void> {
    let next = 0;
    const send = async () => {
      while (next < lbas.length) {
        const chunk = lbas.subarray(next, next += WRITES_MAX);
        const writes = Array.from(chunk, (lba) => ({ lba, data: takeBlock().toBase64() }));
        await this.#send("POST", `/volumes/${volume}/writes`, { writes });
      }
    };
    await Promise.all(Array.from({ length: FILL_REQUESTS_IN_FLIGHT }, send));
  }

  /** Waits until all that was appended is flushed. */
  async flush(pool = "main"): Promise<void> {
    for (let flushes = 0; flushes < FLUSHES_MAX; flushes += 1) {
      const response = await this.#fetch("POST", `/pools/${pool}/flush`);
      await response.body?.cancel();
      if (response.ok) return;
      if (response.status !== 504) throw new Error(`Cannot flush pool ${pool}: answered ${response.status}`);
    }
    throw new Error(`Cannot flush pool ${pool}: not done after ${FLUSHES_MAX} requests`);
  }

  /** Takes a snapshot of a volume; answers at its marker's commit. */
  async takeSnapshot(volume: string): Promise<void> {
    await this.#send("POST", "/snapshots", { volumes: [volume] });
  }

  /** Takes a snapshot of a volume and waits for its seal. @throws when that does not come in time. */
  async sealSnapshot(volume: string): Promise<void> {
    const { status } = await this.#send("POST", "/snapshots?wait=sealed", { volumes: [volume] }) as {
      status: string;
    };
    if (status !== "sealed") {
      throw new Error(`Cannot wait for the seal any longer: the snapshot is ${status}`);
    }
  }

  async #send(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await this.#fetch(method, path, body);
    if (!response.ok) {
      throw new Error(`${method} ${path} was answered ${response.status}: ${await response.text()}`);
    }
    return await response.json();
  }

  async #fetch(method: string, path: string, body?: unknown): Promise<Response> {
    return await fetch(`${this.server.url}${path}`, {
      method,
      body: body === undefined ? null : JSON.stringify(body),
      headers: {
        authorization: `Bearer ${this.server.token}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
  }
}
