/**
 * The `rbd diff v1` format: the difference between two snapshots of an image, or between nothing and one, as a stream.
 *
 *     "rbd diff v1\n"
 *     metadata, in any order, each at most once:
 *       'f' u32 length, name          the snapshot that it starts from; absent when it starts from zeros
 *       't' u32 length, name          the snapshot that it leads to
 *       's' u64                       the image's size in the end, in bytes
 *     data, ascending and without overlap:
 *       'w' u64 offset, u64 length, as many bytes
 *       'z' u64 offset, u64 length    reads as zeros
 *     'e'                             the end, and nothing behind it
 *
 * Numbers are little-endian. Written and read in constant memory: a record's data come in pieces, every length is bounded
 * before anything is made of it, and whatever is not exactly so is refused. Of the format's freedoms one is not taken: data
 * that do not ascend, which no writer of it is known to make.
 *
 * Source: Ceph, doc/dev/rbd-diff.rst, "rbd diff v1".
 */

import { StorageError } from "../errors.ts";

/** What is known before the data. */
export interface DiffHeader {
  readonly from?: string;
  readonly to?: string;
  readonly sizeBytes: number;
}

/** Bytes from an offset on: `data`, or `lengthBytes` of zeros. */
export type DiffRecord =
  | { readonly offsetBytes: number; readonly data: Uint8Array }
  | { readonly offsetBytes: number; readonly lengthBytes: number };

const MAGIC = new TextEncoder().encode("rbd diff v1\n");
/** Longest name of a snapshot, in bytes of UTF-8; there are no longer file names either. */
export const DIFF_NAME_BYTES_MAX = 255;
/** Data that are held at once. */
export const DIFF_PIECE_BYTES = 1024 * 1024;

// Writing

/** Writes a difference. Each record's data go out as they come. */
export async function* encodeDiff(
  { from, to, sizeBytes }: DiffHeader,
  records: AsyncIterable<DiffRecord>,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const names = [...encodeName("f", from), ...encodeName("t", to)];
  yield new Uint8Array([...MAGIC, ...names, ...encodeNumbers("s", sizeBytes)]);
  for await (const record of records) {
    if ("data" in record) {
      yield encodeNumbers("w", record.offsetBytes, record.data.length);
      yield record.data as Uint8Array<ArrayBuffer>;
    } else {
      yield encodeNumbers("z", record.offsetBytes, record.lengthBytes);
    }
  }
  yield encodeNumbers("e");
}

function encodeName(tag: string, name: string | undefined): Uint8Array {
  if (name === undefined) return new Uint8Array();
  const text = new TextEncoder().encode(name);
  const bytes = new Uint8Array(5 + text.length);
  bytes[0] = tag.charCodeAt(0);
  new DataView(bytes.buffer).setUint32(1, text.length, true);
  bytes.set(text, 5);
  return bytes;
}

function encodeNumbers(tag: string, ...numbers: number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(1 + 8 * numbers.length);
  bytes[0] = tag.charCodeAt(0);
  const view = new DataView(bytes.buffer);
  for (const [index, number] of numbers.entries()) view.setBigUint64(1 + 8 * index, BigInt(number), true);
  return bytes;
}

// Reading

/**
 * Reads a difference: what stands before the data at once, the records as they are asked for, each in pieces of at most
 * {@linkcode DIFF_PIECE_BYTES}. The records end only where the stream has ended as it should.
 *
 * @throws {StorageError} `stream-invalid`, here and while the records are read; whatever `body` throws.
 */
export async function decodeDiff(
  body: AsyncIterable<Uint8Array>,
): Promise<{ header: DiffHeader; records: AsyncGenerator<DiffRecord> }> {
  const bytes = new ByteReader(body);
  try {
    await readMagic(bytes);
    const found: { from?: string; to?: string; sizeBytes?: number } = {};
    let tag = await bytes.readTag();
    for (; "fts".includes(tag); tag = await bytes.readTag()) await readMetadata(bytes, tag, found);
    const { sizeBytes } = found;
    if (sizeBytes === undefined) throw invalid("it has no size before its data");
    return { header: { ...found, sizeBytes }, records: readRecords(bytes, sizeBytes, tag) };
  } catch (error) {
    await bytes.close();
    throw error;
  }
}

async function readMagic(bytes: ByteReader): Promise<void> {
  const magic = await bytes.take(MAGIC.length);
  if (magic.some((byte, index) => byte !== MAGIC[index])) {
    throw invalid("it does not begin with the line rbd diff v1");
  }
}

async function readMetadata(
  bytes: ByteReader,
  tag: string,
  found: { from?: string; to?: string; sizeBytes?: number },
): Promise<void> {
  const key = tag === "f" ? "from" : tag === "t" ? "to" : "sizeBytes";
  if (found[key] !== undefined) throw invalid(`it has ${tag} twice`);
  if (key === "sizeBytes") found[key] = await bytes.readNumber();
  else found[key] = await readName(bytes, tag);
}

async function readName(bytes: ByteReader, tag: string): Promise<string> {
  const length = new DataView((await bytes.take(4)).buffer).getUint32(0, true);
  if (length < 1 || length > DIFF_NAME_BYTES_MAX) {
    throw invalid(`the name behind ${tag} has ${length} bytes, expected 1 to ${DIFF_NAME_BYTES_MAX}`);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await bytes.take(length));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw invalid(`the name behind ${tag} is not UTF-8`);
  }
}

async function* readRecords(
  bytes: ByteReader,
  sizeBytes: number,
  firstTag: string,
): AsyncGenerator<DiffRecord> {
  try {
    let end = 0;
    for (let tag = firstTag; tag !== "e"; tag = await bytes.readTag()) {
      if (tag !== "w" && tag !== "z") throw invalid(describeWrongTag(tag));
      const offsetBytes = await bytes.readNumber();
      const lengthBytes = await bytes.readNumber();
      requirePlace({ offsetBytes, lengthBytes, end, sizeBytes });
      end = offsetBytes + lengthBytes;
      if (tag === "z") yield { offsetBytes, lengthBytes };
      else yield* readData(bytes, offsetBytes, end);
    }
    if (!await bytes.isAtEnd()) throw invalid("bytes follow its end record");
  } finally {
    await bytes.close();
  }
}

async function* readData(bytes: ByteReader, start: number, end: number): AsyncGenerator<DiffRecord> {
  for (let offsetBytes = start; offsetBytes < end; offsetBytes += DIFF_PIECE_BYTES) {
    yield { offsetBytes, data: await bytes.take(Math.min(DIFF_PIECE_BYTES, end - offsetBytes)) };
  }
}

function describeWrongTag(tag: string): string {
  return "fts".includes(tag)
    ? `${tag} stands behind data`
    : `it has an unknown record, tag ${tag.charCodeAt(0)}`;
}

function requirePlace(
  { offsetBytes, lengthBytes, end, sizeBytes }: {
    offsetBytes: number;
    lengthBytes: number;
    end: number;
    sizeBytes: number;
  },
): void {
  if (lengthBytes < 1) throw invalid(`the record at ${offsetBytes} is empty`);
  if (offsetBytes < end) {
    throw invalid(`the record at ${offsetBytes} begins before ${end}, where the last one ends`);
  }
  if (offsetBytes + lengthBytes > sizeBytes) {
    throw invalid(`the record at ${offsetBytes} ends behind the size, ${sizeBytes}`);
  }
}

function invalid(what: string): StorageError {
  return new StorageError("stream-invalid", `Cannot read the stream: ${what}`);
}

/** Takes bytes out of chunks of any size. */
class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #chunk = new Uint8Array();
  #offset = 0;

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#chunks = body[Symbol.asyncIterator]();
  }

  /** The next `length` bytes, as the caller's own. @throws {StorageError} `stream-invalid` when there are fewer. */
  async take(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const taken = new Uint8Array(length);
    for (let filled = 0; filled < length;) {
      if (await this.isAtEnd()) throw invalid("it ended before its end record");
      const part = this.#chunk.subarray(this.#offset, this.#offset + length - filled);
      taken.set(part, filled);
      filled += part.length;
      this.#offset += part.length;
    }
    return taken;
  }

  async readTag(): Promise<string> {
    return String.fromCharCode((await this.take(1))[0]);
  }

  /** @throws {StorageError} `stream-invalid` for one that is not counted exactly. */
  async readNumber(): Promise<number> {
    const number = Number(new DataView((await this.take(8)).buffer).getBigUint64(0, true));
    if (!Number.isSafeInteger(number)) throw invalid(`it has the number ${number}, expected less than 2^53`);
    return number;
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#offset === this.#chunk.length) {
      const next = await this.#chunks.next();
      if (next.done === true) return true;
      this.#chunk = next.value as Uint8Array<ArrayBuffer>;
      this.#offset = 0;
    }
    return false;
  }

  /** Leaves what is left unread. */
  async close(): Promise<void> {
    await this.#chunks.return?.();
  }
}
