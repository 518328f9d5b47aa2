/**
 * An HTTP/1.1 connection as a load generator needs it: bytes out, a status back, and as little work as possible between.
 *
 * It knows answers with a Content-Length only (RFC 9112, section 6.2), which is what the server under test gives.
 */

import { Buffer } from "node:buffer";

const READ_BYTES = 262_144;
/** Longest head of an answer; the server's are below 512 bytes. */
const HEAD_BYTES_MAX = 16_384;
const HEAD_END = "\r\n\r\n";

export class LoadConnection implements Disposable {
  readonly #buffer = Buffer.alloc(READ_BYTES);
  #filledBytes = 0;

  private constructor(private readonly socket: Deno.TcpConn) {}

  static async open(url: string): Promise<LoadConnection> {
    const { hostname, port } = new URL(url);
    const socket = await Deno.connect({ hostname, port: Number(port) });
    socket.setNoDelay(true);
    return new LoadConnection(socket);
  }

  /**
   * Sends a request and answers the status, when the whole answer is there.
   *
   * @throws when the connection ends, or the answer is none that it can read.
   */
  async exchange(request: Uint8Array): Promise<number> {
    for (let sent = 0; sent < request.length;) sent += await this.socket.write(request.subarray(sent));
    const headBytes = await this.#readHead();
    const head = this.#buffer.toString("latin1", 0, headBytes);
    const length = /\r\ncontent-length: *(\d+)/i.exec(head);
    if (length === null) throw new Error(`Cannot read an answer without Content-Length: ${head}`);
    await this.#skip(headBytes + Number(length[1]));
    return Number(head.slice(9, 12));
  }

  [Symbol.dispose](): void {
    this.socket.close();
  }

  /** Reads until the head is there and answers its length. */
  async #readHead(): Promise<number> {
    for (;;) {
      const end = this.#buffer.subarray(0, this.#filledBytes).indexOf(HEAD_END);
      if (end >= 0) return end + HEAD_END.length;
      if (this.#filledBytes > HEAD_BYTES_MAX) throw new Error("Cannot find the end of an answer's head");
      this.#filledBytes += await this.#read(this.#filledBytes);
    }
  }

  /** Reads on and drops all up to the answer's end, which has to be the end of what came. */
  async #skip(answerBytes: number): Promise<void> {
    let readBytes = this.#filledBytes;
    while (readBytes < answerBytes) readBytes += await this.#read(0);
    if (readBytes > answerBytes) throw new Error("Cannot read more than one answer to one request");
    this.#filledBytes = 0;
  }

  async #read(offset: number): Promise<number> {
    const count = await this.socket.read(this.#buffer.subarray(offset));
    if (count === null) throw new Error("The server closed a connection");
    return count;
  }
}
