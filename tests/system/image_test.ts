/**
 * The whole way: a real file system's image through real processes, as clients would send it.
 */

import { assertEquals } from "@std/assert";
import { join } from "@std/path";
import { Client } from "../support/client.ts";
import { createTestDatabase } from "../support/database.ts";
import { below, seeded } from "../support/history.ts";
import {
  assertSameBlocks,
  BLOCK_BYTES,
  HAS_E2FSPROGS,
  IMAGE_BYTES,
  makeImage,
  run,
} from "../support/image.ts";
import { startServerProcess, startWorkerProcess } from "../support/server.ts";

const IMAGE_BLOCKS = IMAGE_BYTES / BLOCK_BYTES;
/** 1 MiB requests. */
const REQUEST_BLOCKS = 256;

interface WriteRecord {
  readonly sequence: number;
  readonly lba: number;
  readonly data: Uint8Array;
}

function replay(records: WriteRecord[], before = Infinity): Uint8Array {
  const bytes = new Uint8Array(IMAGE_BYTES);
  for (const { sequence, lba, data } of records.toSorted((a, b) => a.sequence - b.sequence)) {
    if (sequence < before) bytes.set(data, lba * BLOCK_BYTES);
  }
  return bytes;
}

async function upload(
  client: Client,
  volume: string,
  image: Uint8Array<ArrayBuffer>,
  records: WriteRecord[],
  halfWay?: () => Promise<void>,
) {
  for (let lba = 0; lba < IMAGE_BLOCKS; lba += REQUEST_BLOCKS) {
    const data = image.slice(lba * BLOCK_BYTES, (lba + REQUEST_BLOCKS) * BLOCK_BYTES);
    const { sequence } = await client.write(volume, lba, data);
    records.push({ sequence, lba, data });
    if (lba === IMAGE_BLOCKS / 2) await halfWay?.();
  }
}

Deno.test({
  name: "a snapshot in the middle of an image's writing is the replay of all writes with a smaller sequence",
  ignore: !HAS_E2FSPROGS,
  fn: async () => {
    const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
    await using resources = new AsyncDisposableStack();
    resources.defer(() => Deno.remove(directory, { recursive: true }));
    const image = await makeImage(directory);
    const { url } = resources.use(await createTestDatabase());
    const serve = async () =>
      resources.use(await startServerProcess({ DATABASE_URL: url }, ["--no-flusher"]));
    const [a, b] = [new Client((await serve()).url), new Client((await serve()).url)];
    await a.createVolume({ name: "disk", sizeBytes: IMAGE_BYTES });

    const records: WriteRecord[] = [];
    let uploading = true;
    const overwriting = (async () => {
      const random = seeded(7);
      while (uploading) {
        const lba = below(random, IMAGE_BLOCKS);
        const data = new Uint8Array(BLOCK_BYTES).fill(1 + below(random, 255));
        records.push({ ...await b.write("disk", lba, data), lba, data });
      }
    })();
    let cut: { id: string; sequence: number; status: string } | undefined;
    await upload(a, "disk", image, records, async () => {
      cut = await b.snapshot({ volumes: ["disk"], name: "midway" });
    }).finally(() => uploading = false);
    await overwriting;

    assertEquals(cut?.status, "pending");
    const inside = records.filter(({ sequence }) => sequence < cut!.sequence).length;
    assertEquals([inside > 16, inside < records.length - 10], [true, true]);
    const [midway, live] = [replay(records, cut!.sequence), replay(records)];
    const verify = async () => {
      for (const client of [a, b]) {
        assertSameBlocks(await client.readSnapshot("midway", "disk", IMAGE_BLOCKS, 1024), midway);
        assertSameBlocks(await client.readVolume("disk", IMAGE_BLOCKS, 1024), live);
      }
    };
    await verify();
    assertEquals((await a.getSnapshot("midway")).status, "pending");

    const following = b.followToSeal("midway");
    resources.use(await startWorkerProcess({ DATABASE_URL: url }));
    const types = await following;
    assertEquals([types[0], types.at(-1)], ["marker.committed", "snapshot.sealed"]);
    await a.flush("main");
    assertEquals((await a.getSnapshot("midway")).status, "sealed");
    await verify();
  },
});

Deno.test({
  name: "an image that is snapshotted at rest passes e2fsck, whatever is written over it later",
  ignore: !HAS_E2FSPROGS,
  fn: async () => {
    const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
    await using resources = new AsyncDisposableStack();
    resources.defer(() => Deno.remove(directory, { recursive: true }));
    const image = await makeImage(directory);
    const { url } = resources.use(await createTestDatabase());
    const client = new Client(resources.use(await startServerProcess({ DATABASE_URL: url })).url);
    await client.createVolume({ name: "disk", sizeBytes: IMAGE_BYTES });
    await upload(client, "disk", image, []);
    await client.snapshot({ volumes: ["disk"], name: "rest" });
    await upload(client, "disk", new Uint8Array(IMAGE_BYTES).fill(0xee), []);

    const bytes = await client.readSnapshot("rest", "disk", IMAGE_BLOCKS, 1024);
    assertSameBlocks(bytes, image);
    const copy = join(directory, "copy");
    await Deno.writeFile(copy, bytes);
    await run("e2fsck", "-fn", copy);
  },
});
