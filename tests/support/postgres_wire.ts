/**
 * The frames of PostgreSQL's wire protocol, version 3: a type of one byte, a length that counts itself, a body. A client's first
 * message has no type. Source: PostgreSQL's manual, "Frontend/Backend Protocol".
 */

/** One message as it came. */
export interface Frame {
  /** One letter; empty for a client's first message. */
  readonly type: string;
  /** All of it. */
  readonly bytes: Uint8Array;
  /** What comes behind type and length. */
  readonly body: Uint8Array;
}

const LENGTH_BYTES = 4;
const READ_BYTES = 64 * 1024;
/** Longer ones are no messages: the largest COPY of a request has some 8 MiB. */
const FRAME_BYTES_MAX = 64 * 1024 * 1024;

const decoder = new TextDecoder();

/** Cuts what comes from a connection into frames. */
export class FrameReader {
  #held = new Uint8Array();
  #start = 0;
  #end = 0;

  constructor(private readonly connection: { read(into: Uint8Array): Promise<number | null> }) {}

  /** Whether a whole frame is there already. */
  get hasNext(): boolean {
    return this.#end - this.#start > LENGTH_BYTES && this.#end - this.#start >= this.#frameBytes(1);
  }

  /** The next frame; nothing at the end of the connection. */
  async next(): Promise<Frame | undefined> {
    return await this.#take(1);
  }

  /** A message without a type. */
  async nextUntyped(): Promise<Frame | undefined> {
    return await this.#take(0);
  }

  async #take(typeBytes: number): Promise<Frame | undefined> {
    if (!await this.#fill(typeBytes + LENGTH_BYTES)) return undefined;
    const frameBytes = this.#frameBytes(typeBytes);
    if (frameBytes > FRAME_BYTES_MAX) throw new Error(`Cannot take a message of ${frameBytes} bytes`);
    if (!await this.#fill(frameBytes)) return undefined;
    const bytes = this.#held.slice(this.#start, this.#start + frameBytes);
    this.#start += frameBytes;
    return {
      type: decoder.decode(bytes.subarray(0, typeBytes)),
      bytes,
      body: bytes.subarray(typeBytes + LENGTH_BYTES),
    };
  }

  #frameBytes(typeBytes: number): number {
    const view = new DataView(this.#held.buffer, this.#held.byteOffset);
    return typeBytes + view.getUint32(this.#start + typeBytes);
  }

  /** Reads until `count` bytes are there. */
  async #fill(count: number): Promise<boolean> {
    while (this.#end - this.#start < count) {
      this.#makeRoom(Math.max(count, READ_BYTES));
      const read = await this.connection.read(this.#held.subarray(this.#end));
      if (read === null) return false;
      this.#end += read;
    }
    return true;
  }

  #makeRoom(count: number): void {
    if (this.#held.length - this.#start >= count) return;
    const held = new Uint8Array(Math.max(count, 2 * (this.#end - this.#start)));
    held.set(this.#held.subarray(this.#start, this.#end));
    this.#end -= this.#start;
    this.#start = 0;
    this.#held = held;
  }
}

/** The texts of a body, which end in a zero byte each, up to the first `count`. */
export function readTexts(body: Uint8Array, count: number): string[] {
  const texts: string[] = [];
  for (let start = 0; texts.length < count;) {
    const end = body.indexOf(0, start);
    if (end < 0) break;
    texts.push(decoder.decode(body.subarray(start, end)));
    start = end + 1;
  }
  return texts;
}
