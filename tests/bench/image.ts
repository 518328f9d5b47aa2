/**
 * `image`: a volume downloaded from its first block to its last in the largest reads, one after the other, against the
 * bare `select` of the same rows in pages of the same size.
 */

import type { Bed } from "./bed.ts";
import type { Bench, OpenBench, Sample } from "./bench.ts";
import { BLOCK_BYTES } from "./block_contents.ts";
import { createBlockTable } from "./block_table.ts";
import { ServerClient } from "./server_client.ts";
import { timeSeconds } from "./stopwatch.ts";

const VOLUME = "image";
/** 128 MiB. */
const VOLUME_BLOCKS = 32_768;
const VOLUME_BLOCKS_QUICK = 4_096;
/** 4 MiB, the most that a request may ask for. */
const PAGE_BLOCKS = 1_024;

export const imageBench: Bench = {
  name: "image",
  rows: [{
    name: "image",
    measured: "download in reads of 4 MiB, one connection",
    against: "bare select in pages of 4 MiB",
    unit: "MB/s",
    goal: { atLeast: 0.6, aim: 0.9 },
  }],
  open,
};

async function open(bed: Bed): Promise<OpenBench> {
  await using undo = new AsyncDisposableStack();
  const blockCount = bed.scaled(VOLUME_BLOCKS, VOLUME_BLOCKS_QUICK);
  const bench = undo.use(await bed.createDatabase({ migrated: true }));
  const server = undo.use(await bed.startServer(bench));
  await new ServerClient(server).createVolume(VOLUME, blockCount);
  await new ServerClient(server).fillVolume(VOLUME, blockCount);
  await new ServerClient(server).drain();
  await createBlockTable(bench.database, "bare_image", blockCount);
  const resources = undo.move();
  const repeat = async (): Promise<Sample[]> => {
    await bed.settle(bench);
    const { megabytesPerSecond } = await bed.runClosedLoad({
      server,
      connections: 1,
      seconds: bed.scaled(1.5, 0.5),
      method: "GET",
      volumes: [VOLUME],
      blockCount,
      blocksPerRequest: PAGE_BLOCKS,
      blockSizeBytes: BLOCK_BYTES,
      order: "sequential",
    });
    await bed.settle(bench);
    const seconds = await timeSeconds(() => selectAll(bench.database.$client, blockCount));
    return [{
      row: "image",
      measured: megabytesPerSecond,
      against: blockCount * BLOCK_BYTES / seconds / 1e6,
    }];
  };
  return { repeat, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

async function selectAll(
  client: Awaited<ReturnType<Bed["createDatabase"]>>["database"]["$client"],
  blockCount: number,
): Promise<void> {
  for (let lba = 0; lba < blockCount; lba += PAGE_BLOCKS) {
    const rows = await client`
      select lba, data from bare_image where lba >= ${lba} and lba < ${lba + PAGE_BLOCKS} order by lba`;
    if (rows.length !== PAGE_BLOCKS) {
      throw new Error(`Cannot read a page: found ${rows.length} rows at LBA ${lba}`);
    }
  }
}
