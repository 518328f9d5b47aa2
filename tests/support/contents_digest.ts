/**
 * The digest of contents, counted after its description in README and not by the code that is tested.
 */

import { createHash } from "node:crypto";

/** The digest of a whole volume. */
export function digestOf(contents: Uint8Array): string {
  const number = (value: number) => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
    return bytes;
  };
  let chain: Uint8Array = new Uint8Array(32);
  for (let offset = 0; offset < contents.length; offset += 1024 * 1024) {
    const piece = contents.subarray(offset, offset + 1024 * 1024);
    if (piece.every((byte) => byte === 0)) continue;
    chain = createHash("sha256").update(chain).update(number(offset))
      .update(createHash("sha256").update(piece).digest()).digest();
  }
  return createHash("sha256").update(chain).update(number(contents.length)).digest("hex");
}

/** The digest of a snapshot of these volumes, in hex. */
export function snapshotDigestOf(volumes: { volumeId: string; digest: string }[]): string {
  const hash = createHash("sha256");
  for (const { volumeId, digest } of volumes.toSorted((a, b) => a.volumeId < b.volumeId ? -1 : 1)) {
    hash.update(volumeId.replaceAll("-", ""), "hex").update(digest, "hex");
  }
  return hash.digest("hex");
}
