/** The digest of contents, against one counted after its description. */

import { assertEquals } from "@std/assert";
import {
  DIGEST_PIECE_BYTES,
  digestVolumes,
  emptyChain,
  extendChain,
  finishDigest,
} from "../../src/storage/contents_digest.ts";
import { digestOf, snapshotDigestOf } from "../support/contents_digest.ts";

Deno.test("finishDigest() is what its description says, and leaves out pieces of zeros", async () => {
  const contents = new Uint8Array(5 * DIGEST_PIECE_BYTES + 512);
  contents[100] = 1;
  contents[3 * DIGEST_PIECE_BYTES + 7] = 2;
  contents[contents.length - 1] = 3;
  let chain: Uint8Array = emptyChain();
  let lean: Uint8Array = emptyChain();
  for (const piece of [0, 1, 2, 3, 4, 5]) {
    const offset = piece * DIGEST_PIECE_BYTES;
    const bytes = contents.subarray(offset, offset + DIGEST_PIECE_BYTES);
    chain = await extendChain(chain, offset, bytes);
    if (piece !== 1 && piece !== 4) lean = await extendChain(lean, offset, bytes);
  }
  assertEquals((await finishDigest(chain, contents.length)).toHex(), digestOf(contents));
  assertEquals(lean, chain);
});

Deno.test("finishDigest() of the same data elsewhere, or in a volume of another size, is another", async () => {
  const data = new Uint8Array(512).fill(7);
  const digests = new Set<string>();
  for (const offset of [0, DIGEST_PIECE_BYTES]) {
    const chain = await extendChain(emptyChain(), offset, data);
    for (const size of [2, 3]) digests.add((await finishDigest(chain, size * DIGEST_PIECE_BYTES)).toHex());
  }
  assertEquals(digests.size, 4);
});

Deno.test("digestVolumes() is what its description says, in whichever order the volumes come", async () => {
  const volumes = ["01a20573-4b9a-71ce-9029-d1d9944da612", "01a20573-4b9a-71ce-9029-d1d9944da611"].map(
    (volumeId, index) => ({ volumeId, digest: new Uint8Array(32).fill(index + 1) }),
  );
  const expected = snapshotDigestOf(volumes.map((volume) => ({ ...volume, digest: volume.digest.toHex() })));
  assertEquals((await digestVolumes(volumes)).toHex(), expected);
  assertEquals((await digestVolumes(volumes.toReversed())).toHex(), expected);
  assertEquals((await digestVolumes([])).toHex(), snapshotDigestOf([]));
});
