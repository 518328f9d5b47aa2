/**
 * The digest of a volume's contents: equal for equal contents, however they are stored, and counted piece by piece, so that it
 * can stop anywhere and go on from 32 bytes.
 *
 *     chain  = 32 zero bytes
 *     for each MiB of the contents, ascending, that is not all zeros (the last may be shorter):
 *       chain = SHA-256(chain, offset in bytes as u64 little-endian, SHA-256(the bytes))
 *     digest = SHA-256(chain, size of the volume in bytes as u64 little-endian)
 *
 * So runs of zeros cost nothing, and blocks of zeros count like blocks that were never written. What a snapshot of selected blocks
 * does not cover counts as zeros. The digest of a snapshot is of those of its volumes:
 *
 *     digest = SHA-256(for each volume, ascending by id: its id in 16 bytes, its digest in 32)
 *
 * The chain goes over digests of pieces, so whoever remembers those can tell the whole without reading what has not changed. Pieces
 * are of a MiB whatever a pool's blocks are: contents have one digest in pools of any block size, and a hash has a cost of its own:
 * hashing each block of 4 KiB takes half as long again, and each of 512 bytes four times as long.
 */

/** What is hashed at once; every block size goes into it. */
export const DIGEST_PIECE_BYTES = 1024 * 1024;

const NUMBER_BYTES = 8;
const CHAIN_BYTES = 32;

/** The chain before the first piece. */
export function emptyChain(): Uint8Array<ArrayBuffer> {
  return new Uint8Array(CHAIN_BYTES);
}

/** The chain behind a piece of the contents, which begins at a multiple of {@linkcode DIGEST_PIECE_BYTES}. */
export async function extendChain(
  chain: Uint8Array,
  offsetBytes: number,
  piece: Uint8Array,
): Promise<Uint8Array> {
  return isZeros(piece) ? chain : await hash(chain, toBytes(offsetBytes), await hash(piece));
}

/** The digest of contents of that size. */
export async function finishDigest(chain: Uint8Array, sizeBytes: number): Promise<Uint8Array> {
  return await hash(chain, toBytes(sizeBytes));
}

/** The digest of a snapshot that covers these volumes, with their digests. */
export async function digestVolumes(
  volumes: readonly { volumeId: string; digest: Uint8Array }[],
): Promise<Uint8Array> {
  const ascending = volumes.toSorted((a, b) => a.volumeId < b.volumeId ? -1 : 1);
  return await hash(
    ...ascending.flatMap(({ volumeId, digest }) => [
      Uint8Array.fromHex(volumeId.replaceAll("-", "")),
      digest,
    ]),
  );
}

/** Tells whether two digests are the same. */
export function isSameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return a.toHex() === b.toHex();
}

async function hash(...parts: Uint8Array[]): Promise<Uint8Array<ArrayBuffer>> {
  const hashed = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let end = 0;
  for (const part of parts) {
    hashed.set(part, end);
    end += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", hashed));
}

function toBytes(number: number): Uint8Array {
  const bytes = new Uint8Array(NUMBER_BYTES);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(number), true);
  return bytes;
}

/** Pieces are whole blocks, and those are multiples of four bytes. */
function isZeros(piece: Uint8Array): boolean {
  return new Uint32Array(piece.buffer, piece.byteOffset, piece.length / 4).every((word) => word === 0);
}
