/**
 * The whole way: a real file system's image through real processes, as clients would send it.
 */

import { assertEquals } from "@std/assert";
import { join } from "@std/path";
import { Client } from "../support/client.ts";
import { createTestDatabase } from "../support/database.ts";
import { below, seeded } from "../support/history.ts";
import { startServerProcess, startWorkerProcess } from "../support/server.ts";

const BLOCK_BYTES = 4096;
const IMAGE_BYTES = 32 * 1024 * 1024;
const IMAGE_BLOCKS = IMAGE_BYTES / BLOCK_BYTES;
/** 1 MiB requests. */
const REQUEST_BLOCKS = 256;

/** Where the file system's tools are; an ordinary user's PATH often leaves them out. */
const TOOLS = { PATH: "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin" };

/** Debian's e2fsprogs; a machine without them cannot make the image. */
async function hasE2fsprogs(): Promise<boolean> {
  try {
    return (await new Deno.Command("mke2fs", {
      args: ["-V"],
      env: TOOLS,
      stdout: "null",
      stderr: "null",
    }).output())
      .success;
  } catch {
    console.warn("No mke2fs on this machine (package e2fsprogs): the tests of a real image are left out");
    return false;
  }
}

async function run(program: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    env: TOOLS,
    stdout: "piped",
    stderr: "piped",
  })
    .output();
  const text = new TextDecoder();
  if (code !== 0) {
    throw new Error(`${program} ended with ${code}: ${text.decode(stdout)}${text.decode(stderr)}`);
  }
}

/** An ext4 image with some megabytes of files in it. */
async function makeImage(directory: string): Promise<Uint8Array<ArrayBuffer>> {
  const files = join(directory, "files");
  await Deno.mkdir(join(files, "deep", "er"), { recursive: true });
  const random = seeded(42);
  for (let index = 0; index < 24; index++) {
    const bytes = Uint8Array.from({ length: 512 * 1024 }, () => below(random, 256));
    await Deno.writeFile(join(files, index % 2 === 0 ? "." : "deep/er", `file-${index}`), bytes);
  }
  const image = join(directory, "image");
  await run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", files, image, `${IMAGE_BYTES / 1024}k`);
  return await Deno.readFile(image);
}

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

/** Unlike `assertEquals`, tells the first differing block, and compares megabytes in no time. */
function assertSameBlocks(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  for (let at = 0; at < actual.length; at += BLOCK_BYTES) {
    const [a, b] = [actual.subarray(at, at + BLOCK_BYTES), expected.subarray(at, at + BLOCK_BYTES)];
    if (a.some((byte, index) => byte !== b[index])) throw new Error(`Block ${at / BLOCK_BYTES} differs`);
  }
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
  ignore: !await hasE2fsprogs(),
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
  ignore: !await hasE2fsprogs(),
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
