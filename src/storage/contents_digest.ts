/**
 * The digest of a volume's contents: equal for equal contents, however they are stored, and counted piece by piece, so that it
 * can stop anywhere and go on from 32 bytes.
 *
 *     chain  = 32 zero bytes
 *     for each MiB of the contents, ascending, that is not all zeros (the last may be shorter):
 *       chain = SHA-256(chain, offset in bytes as u64 little-endian, the bytes)
 *     digest = SHA-256(chain, size of the volume in bytes as u64 little-endian)
 *
 * So runs of zeros cost nothing, and blocks of zeros count like blocks that were never written.
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
  return isZeros(piece) ? chain : await hash(chain, offsetBytes, piece);
}

/** The digest of contents of that size, in hex. */
export async function finishDigest(chain: Uint8Array, sizeBytes: number): Promise<string> {
  return (await hash(chain, sizeBytes, new Uint8Array())).toHex();
}

async function hash(chain: Uint8Array, number: number, bytes: Uint8Array): Promise<Uint8Array> {
  const hashed = new Uint8Array(CHAIN_BYTES + NUMBER_BYTES + bytes.length);
  hashed.set(chain);
  new DataView(hashed.buffer).setBigUint64(CHAIN_BYTES, BigInt(number), true);
  hashed.set(bytes, CHAIN_BYTES + NUMBER_BYTES);
  return new Uint8Array(await crypto.subtle.digest("SHA-256", hashed));
}

/** Pieces are whole blocks, and those are multiples of four bytes. */
function isZeros(piece: Uint8Array): boolean {
  return new Uint32Array(piece.buffer, piece.byteOffset, piece.length / 4).every((word) => word === 0);
}
