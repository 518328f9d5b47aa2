/**
 * A client of the HTTP door, as a test needs it: every answer that is not a success fails.
 */

import { TEST_TOKEN } from "./server.ts";

/** Longest wait for an answer, and for an event. */
const ANSWER_MS_MAX = 60_000;

export interface Written {
  readonly sequence: number;
}

export class Client {
  constructor(private readonly url: string) {}

  async createPool(body: Record<string, unknown>): Promise<void> {
    await this.#json("POST", "/pools", body);
  }

  async changePool(pool: string, body: Record<string, unknown>): Promise<void> {
    await this.#json("PATCH", `/pools/${pool}`, body);
  }

  async addDevice(body: Record<string, unknown>): Promise<void> {
    await this.#json("POST", "/devices", body);
  }

  async createVolume(body: Record<string, unknown>): Promise<{ id: string }> {
    return await this.#json("POST", "/volumes", body);
  }

  async write(volume: string, lba: number, data: Uint8Array<ArrayBuffer>): Promise<Written> {
    const response = await this.#fetch(
      "PUT",
      `/volumes/${volume}/blocks/${lba}`,
      data,
      "application/octet-stream",
    );
    return await response.json();
  }

  async writeMany(
    volume: string,
    writes: ({ lba: number; data: Uint8Array } | { lba: number; trim: number })[],
  ): Promise<Written> {
    const body = writes.map((write) => "data" in write ? { ...write, data: write.data.toBase64() } : write);
    return await this.#json("POST", `/volumes/${volume}/writes`, { writes: body });
  }

  async snapshot(body: Record<string, unknown>): Promise<{ id: string; sequence: number; status: string }> {
    return await this.#json("POST", "/snapshots", body);
  }

  async getSnapshot(snapshot: string): Promise<{ status: string; sequence: number }> {
    return await this.#json("GET", `/snapshots/${snapshot}`);
  }

  async getPool(
    pool: string,
  ): Promise<{ sequenceAppended: number; sequenceFlushed: number; dirtyEntries: number }> {
    return await this.#json("GET", `/pools/${pool}`);
  }

  async flush(pool: string): Promise<void> {
    await this.#json("POST", `/pools/${pool}/flush`);
  }

  readVolume(volume: string, blockCount: number, perRequest = blockCount): Promise<Uint8Array> {
    return this.#readAll(`/volumes/${volume}/blocks`, "", blockCount, perRequest);
  }

  readSnapshot(
    snapshot: string,
    volume: string,
    blockCount: number,
    perRequest = blockCount,
  ): Promise<Uint8Array> {
    return this.#readAll(`/snapshots/${snapshot}/blocks`, `&volume=${volume}`, blockCount, perRequest);
  }

  /** The types of a snapshot's events up to its seal, in order. */
  async followToSeal(snapshot: string): Promise<string[]> {
    const token = new TextEncoder().encode(TEST_TOKEN).toBase64({ alphabet: "base64url", omitPadding: true });
    const url = `${this.url.replace("http", "ws")}/events?snapshot=${snapshot}&after=0`;
    const socket = new WebSocket(url, ["snapmark.v1", `snapmark.bearer.${token}`]);
    const types: string[] = [];
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(() => reject(new Error("Cannot wait longer for the seal")), ANSWER_MS_MAX);
    socket.onerror = () => reject(new Error("The subscription failed"));
    socket.onmessage = ({ data }) => {
      types.push(JSON.parse(data).type);
      if (types.at(-1) === "snapshot.sealed") resolve();
    };
    const closed = new Promise<void>((done) => {
      socket.onclose = ({ code }) => {
        reject(new Error(`The subscription was closed with ${code}`));
        done();
      };
    });
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      socket.close();
      await closed;
    }
    return types;
  }

  async #readAll(path: string, query: string, blockCount: number, perRequest: number): Promise<Uint8Array> {
    const parts: Uint8Array<ArrayBuffer>[] = [];
    for (let lba = 0; lba < blockCount; lba += perRequest) {
      const count = Math.min(perRequest, blockCount - lba);
      const response = await this.#fetch("GET", `${path}/${lba}?count=${count}${query}`);
      parts.push(new Uint8Array(await response.arrayBuffer()));
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  // deno-lint-ignore no-explicit-any
  async #json(method: string, path: string, body?: unknown): Promise<any> {
    const response = await this.#fetch(
      method,
      path,
      body === undefined ? null : JSON.stringify(body),
      "application/json",
    );
    return await response.json();
  }

  async #fetch(method: string, path: string, body: BodyInit | null = null, type?: string): Promise<Response> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      body,
      headers: {
        authorization: `Bearer ${TEST_TOKEN}`,
        ...(type === undefined || body === null ? {} : { "content-type": type }),
      },
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
    });
    if (!response.ok) {
      throw new Error(`${method} ${path} was answered ${response.status}: ${await response.text()}`);
    }
    return response;
  }
}
