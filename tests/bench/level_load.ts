/**
 * A closed load whose flusher has to keep level: what counts is a rate that could go on.
 *
 * The flusher is level if what is dirty at the end is at most two seconds of its work. Then the rate of the answers counts;
 * if not, the rate at which blocks were flushed meanwhile, for nothing else could be sustained.
 */

import type { Bed, ClosedLoad, ClosedLoadResult } from "./bed.ts";
import { ServerClient } from "./server_client.ts";

const LEVEL_SECONDS = 2;
const MEGABYTE = 1e6;

export interface LevelRate {
  readonly blocksPerSecond: number;
  readonly megabytesPerSecond: number;
  /** Bytes that were answered. */
  readonly bytes: number;
  /** How level it was, and what the generator took. */
  readonly note: string;
}

/** Runs `load` on a server that flushes, and leaves the queue empty. */
export async function runLevelLoad(bed: Bed, load: ClosedLoad): Promise<LevelRate> {
  const client = new ServerClient(load.server);
  const before = await client.readPool();
  const result = await bed.runClosedLoad(load);
  const after = await client.readPool();
  await client.drain();
  const bytes = result.seconds * result.megabytesPerSecond * MEGABYTE;
  // The load ran a little longer than what counts of it: its warm-up is flushed too.
  const seconds = (after.at - before.at) / 1000;
  const shareCounted = result.seconds / seconds;
  const flushedBytesPerSecond = (bytes / shareCounted - (after.dirtyBytes - before.dirtyBytes)) / seconds;
  const behindSeconds = after.dirtyBytes / Math.max(1, flushedBytesPerSecond);
  const level = behindSeconds <= LEVEL_SECONDS;
  const megabytesPerSecond = level ? result.megabytesPerSecond : flushedBytesPerSecond / MEGABYTE;
  return {
    megabytesPerSecond,
    blocksPerSecond: megabytesPerSecond * MEGABYTE / load.blockSizeBytes,
    bytes,
    note: `${level ? "level" : "NOT LEVEL, flushed rate counts"}: ${
      behindSeconds.toFixed(1)
    } s dirty at the end; ${describeGenerator(result)}`,
  };
}

/** What of the CPU the generator took, for a sample's note. */
export function describeGenerator({ generator, generatorShare }: ClosedLoadResult): string {
  return `${generator} ${Math.round(generatorShare * 100)} % of the CPU`;
}
