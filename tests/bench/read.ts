/**
 * `read`: random 4 KiB GETs of a volume that is flushed, dirty, or written under 100 snapshots, against the same HTTP door
 * around one prepared `select`.
 */

import type { Bed, BenchDatabase, BenchServer } from "./bed.ts";
import type { Bench, OpenBench, Row, Sample } from "./bench.ts";
import { BLOCK_BYTES, drawLbas } from "./block_contents.ts";
import { ServerClient } from "./server_client.ts";

const VOLUME = "read";
/** 128 MiB. */
const VOLUME_BLOCKS = 32_768;
const VOLUME_BLOCKS_QUICK = 2_048;
const SNAPSHOTS = 100;
const SNAPSHOTS_QUICK = 4;

const row = (name: string, measured: string): Row => ({
  name,
  measured: `4 KiB random GETs, ${measured}`,
  against: "the same door, one select",
  unit: "blocks/s",
  goal: { atLeast: 0.6, aim: 0.9 },
});

export const readBench: Bench = {
  name: "read",
  rows: [
    row("read-flushed", "flushed"),
    row("read-dirty", "all in the cache"),
    row("read-snapshots", "under 100 snapshots"),
  ],
  open,
};

interface Contender {
  readonly row: string;
  readonly bench: BenchDatabase;
  readonly server: BenchServer;
}

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const start = async (row: string, args: string[] = []) => {
    const bench = undo.use(await bed.createDatabase({ migrated: true }));
    const server = undo.use(await bed.startServer(bench, args));
    await new ServerClient(server).createVolume(VOLUME, blockCount);
    await new ServerClient(server).fillVolume(VOLUME, blockCount);
    return { row, bench, server };
  };
  const flushed = await start("read-flushed");
  await new ServerClient(flushed.server).drain();
  const dirty = await start("read-dirty", ["--no-flusher"]);
  const layered = await start("read-snapshots");
  await writeLayers(layered.server, blockCount, bed.scaled(SNAPSHOTS, SNAPSHOTS_QUICK));
  const bench = undo.use(await bed.createDatabase({ migrated: true }));
  const peer = { row: "peer", bench, server: undo.use(await bed.startPeer(bench, "select", { blockCount })) };
  const resources = undo.move();
  return {
    repeat: () => compare(bed, [flushed, dirty, layered], peer, blockCount),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

/** Overwrites a random share of the volume before each snapshot, then flushes. */
async function writeLayers(server: BenchServer, blockCount: number, snapshots: number): Promise<void> {
  for (let snapshot = 0; snapshot < snapshots; snapshot++) {
    await new ServerClient(server).scatter(VOLUME, drawLbas(Math.floor(blockCount / snapshots), blockCount));
    await new ServerClient(server).takeSnapshot(VOLUME);
  }
  await new ServerClient(server).drain();
}

async function compare(
  bed: Bed,
  contenders: Contender[],
  peer: Contender,
  blockCount: number,
): Promise<Sample[]> {
  const rates = new Map<string, number>();
  for (const { row, bench, server } of [...contenders, peer]) {
    await bed.settle(bench);
    const { blocksPerSecond } = await bed.runClosedLoad({
      server,
      connections: 64,
      seconds: bed.scaled(1, 0.5),
      method: "GET",
      volumes: [VOLUME],
      blockCount,
      blocksPerRequest: 1,
      blockSizeBytes: BLOCK_BYTES,
      order: "random",
    });
    rates.set(row, blocksPerSecond);
  }
  const against = rates.get(peer.row) as number;
  return contenders.map(({ row }) => ({ row, measured: rates.get(row) as number, against }));
}
