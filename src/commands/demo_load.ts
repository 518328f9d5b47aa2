/**
 * The demo's load: a file that is written in large PUTs over several connections, and a second client that overwrites
 * single blocks anywhere in it all the time. Every acknowledged write goes into one log, with its sequence.
 */

import type { DemoClient, DemoVolume, Range } from "./demo_client.ts";
import { type DemoWrite, makeBlocks } from "./demo_contents.ts";
import type { Timing } from "./demo_latency.ts";

const KIB = 1024;

/** How the file is cut: in turn. */
const FILE_PUT_BYTES = [1024 * KIB, 256 * KIB, 768 * KIB, 512 * KIB];
const FILE_CONNECTIONS = 4;
const OVERWRITE_CONNECTIONS = 32;
/** The log's bound: about 30 MiB. At thousands of writes a second, a minute's worth; then the overwriting ends. */
const LOG_WRITES_MAX = 250_000;

/** An acknowledged write, and how long it took. */
export interface LoggedWrite extends DemoWrite, Timing {
  readonly part: "file" | "overwrite";
}

export class Load {
  /** In the order of their acknowledgements. */
  readonly log: LoggedWrite[] = [];
  readonly #halfway = Promise.withResolvers<void>();
  #version = 0;
  #fileBlocksWritten = 0;

  constructor(private readonly volume: DemoVolume) {}

  /** Resolves when half of the file is acknowledged. */
  get halfway(): Promise<void> {
    return this.#halfway.promise;
  }

  /** How much of the file is acknowledged, in bytes. */
  get fileBytesWritten(): number {
    return this.#fileBlocksWritten * this.volume.blockSizeBytes;
  }

  /** Writes the file from its first block to its last. */
  async writeFile(client: DemoClient, signal: AbortSignal): Promise<void> {
    const puts = planFile(this.volume).values();
    const write = async () => {
      for (const put of puts) {
        await this.#write(client, "file", put, signal);
        this.#fileBlocksWritten += put.blockCount;
        if (2 * this.#fileBlocksWritten >= this.volume.blockCount) this.#halfway.resolve();
      }
    };
    await Promise.all(Array.from({ length: FILE_CONNECTIONS }, write));
  }

  /** Overwrites blocks anywhere in the volume until `ended` is aborted. */
  async overwrite(client: DemoClient, ended: AbortSignal, signal: AbortSignal): Promise<void> {
    const write = async () => {
      while (!ended.aborted && this.log.length < LOG_WRITES_MAX) {
        const lba = Math.floor(Math.random() * this.volume.blockCount);
        await this.#write(client, "overwrite", { lba, blockCount: 1 }, signal);
      }
    };
    await Promise.all(Array.from({ length: OVERWRITE_CONNECTIONS }, write));
  }

  async #write(
    client: DemoClient,
    part: LoggedWrite["part"],
    range: Range,
    signal: AbortSignal,
  ): Promise<void> {
    const version = ++this.#version;
    const octets = makeBlocks({ ...range, version }, this.volume.blockSizeBytes);
    const startedAt = performance.now();
    const sequence = await client.write(this.volume, range.lba, octets, signal);
    this.log.push({ ...range, version, sequence, part, startedAt, endedAt: performance.now() });
  }
}

/** The PUTs that make up the file: half-open runs of blocks, one behind the other. */
export function planFile(
  { blockCount, blockSizeBytes }: { blockCount: number; blockSizeBytes: number },
): Range[] {
  const puts: Range[] = [];
  for (let lba = 0; lba < blockCount;) {
    const sizeBytes = FILE_PUT_BYTES[puts.length % FILE_PUT_BYTES.length];
    const put = { lba, blockCount: Math.min(blockCount - lba, sizeBytes / blockSizeBytes) };
    puts.push(put);
    lba += put.blockCount;
  }
  return puts;
}
