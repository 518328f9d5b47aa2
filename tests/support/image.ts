/**
 * A real file system's image, and the programs of the machine that make and read one.
 */

import { assertEquals } from "@std/assert";
import { join } from "@std/path";
import { below, seeded } from "./history.ts";

export const BLOCK_BYTES = 4096;
export const IMAGE_BYTES = 32 * 1024 * 1024;

/** Where the file system's tools are; an ordinary user's PATH often leaves them out. */
const TOOLS = { PATH: "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin" };

/** Longest run of a program. */
const RUN_MS_MAX = 120_000;

/** Whether the machine has a program; tells what is left out if not. */
async function hasProgram(program: string, packageName: string, versionFlag: string): Promise<boolean> {
  const command = new Deno.Command(program, {
    args: [versionFlag],
    env: TOOLS,
    stdout: "null",
    stderr: "null",
  });
  try {
    return (await command.output()).success;
  } catch {
    console.warn(`No ${program} on this machine (package ${packageName}): the tests with it are left out`);
    return false;
  }
}

/** Without it no image can be made. */
export const HAS_E2FSPROGS = await hasProgram("mke2fs", "e2fsprogs", "-V");
export const HAS_CURL = await hasProgram("curl", "curl", "--version");
export const HAS_QEMU_IMG = await hasProgram("qemu-img", "qemu-utils", "--version");

/** Runs a program, which has to succeed. */
export async function run(program: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    env: TOOLS,
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(RUN_MS_MAX),
  })
    .output();
  const text = new TextDecoder();
  if (code !== 0) {
    throw new Error(`${program} ended with ${code}: ${text.decode(stdout)}${text.decode(stderr)}`);
  }
}

/** An ext4 image with some megabytes of files in it. */
export async function makeImage(directory: string): Promise<Uint8Array<ArrayBuffer>> {
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

/** Unlike `assertEquals`, tells the first differing block, and compares megabytes in no time. */
export function assertSameBlocks(actual: Uint8Array, expected: Uint8Array): void {
  assertEquals(actual.length, expected.length);
  for (let at = 0; at < actual.length; at += BLOCK_BYTES) {
    const [a, b] = [actual.subarray(at, at + BLOCK_BYTES), expected.subarray(at, at + BLOCK_BYTES)];
    if (a.some((byte, index) => byte !== b[index])) throw new Error(`Block ${at / BLOCK_BYTES} differs`);
  }
}
