/** The script in README that counts a digest from a downloaded image, as it stands there. */

import { assertEquals } from "@std/assert";
import { DIGEST_PIECE_BYTES } from "../../src/storage/contents_digest.ts";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";

const README = new URL("../../README.md", import.meta.url);
const BLOCK_BYTES = 512;
const BLOCKS = 3 * DIGEST_PIECE_BYTES / BLOCK_BYTES + 5;

async function readScript(): Promise<string> {
  const [, script] = (await Deno.readTextFile(README)).match(/```js\n(\/\/ digest\.mjs\n[^]*?)```/) ?? [];
  if (script === undefined) throw new Error("Cannot find digest.mjs in README");
  return script;
}

/** Runs a program and answers what it printed; nothing when there is none of that name. */
async function print(program: string, args: string[]): Promise<string | undefined> {
  const command = new Deno.Command(program, { args, stdout: "piped", stderr: "inherit" });
  try {
    const { success, stdout } = await command.output();
    assertEquals(success, true, program);
    return new TextDecoder().decode(stdout).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** The first and the third piece have data; so has the last, which is short. */
async function takeSnapshot(door: TestDoor): Promise<{ digest: string; image: Uint8Array }> {
  await createTestVolume(door, "db", { blockCount: BLOCKS });
  for (const lba of [7, 2 * DIGEST_PIECE_BYTES / BLOCK_BYTES, BLOCKS - 2]) {
    await door.call("PUT", `/volumes/db/blocks/${lba}`, { octets: fill(1 + lba, 2, BLOCK_BYTES) });
  }
  await door.call("POST", "/snapshots", { json: { volumes: ["db"], name: "nightly" } });
  await door.system.drain();
  const digester = door.system.createDigester();
  while (await digester.sweep());
  const { body: { volumes: [{ digest }] } } = await door.call("GET", "/snapshots/nightly");
  return { digest, image: (await door.call("GET", "/snapshots/nightly/image")).body };
}

Deno.test("the script in README counts the digest that a snapshot has from its image, in Deno and in Node where there is one", async () => {
  await using door = await createTestDoor();
  const { digest, image } = await takeSnapshot(door);
  assertEquals(image.length, BLOCKS * BLOCK_BYTES);
  const script = await readScript();
  assertEquals(script.trimEnd().split("\n").length <= 15, true);
  const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  try {
    const [file, path] = [`${directory}/db.img`, `${directory}/digest.mjs`];
    await Deno.writeFile(file, image);
    await Deno.writeTextFile(path, script);
    assertEquals(
      await print(Deno.execPath(), ["run", "--no-prompt", `--allow-read=${file}`, path, file]),
      digest,
    );
    assertEquals(await print("node", [path, file]) ?? digest, digest);
    image[image.length - 1] ^= 1;
    await Deno.writeFile(file, image);
    assertEquals(
      await print(Deno.execPath(), ["run", "--no-prompt", `--allow-read=${file}`, path, file]) === digest,
      false,
    );
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
