/**
 * Subscribers of `/events`: one by the platform's WebSocket, which reads what comes, and one written by hand, which sets
 * headers as it likes and reads only when it is told to.
 */

import { DOOR_TOKEN, type TestDoor, until } from "./door.ts";

/** How long anything may take. */
const WAIT_MS_MAX = 10_000;
/** The key of RFC 6455's own example: the server's answer to it is known. */
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";

/** First byte of a message in one frame, and of a close. */
const FINAL_TEXT = 0x81;
const FINAL_CLOSE = 0x88;

/** How a connection ended. */
export interface Ending {
  readonly code: number;
  readonly reason: string;
}

export interface Subscriber extends Disposable {
  readonly protocol: string;
  /** What has come so far. */
  // deno-lint-ignore no-explicit-any -- what is in a message is for the test to find out
  readonly events: any[];
  /** Waits for `count` events in all. */
  // deno-lint-ignore no-explicit-any -- as above
  take(count: number): Promise<any[]>;
  send(text: string): void;
  close(): void;
  /** When the connection has ended. */
  ended(): Promise<Ending>;
}

/** Subscribes as a browser does, which can set no header; fails when the server does not let it in. */
export async function subscribe(
  { url }: Pick<TestDoor, "url">,
  query = "",
  token = DOOR_TOKEN,
): Promise<Subscriber> {
  const bearer = new TextEncoder().encode(token).toBase64({ alphabet: "base64url", omitPadding: true });
  const address = `${url.replace("http", "ws")}/events${query}`;
  const socket = new WebSocket(address, ["snapmark.v1", `snapmark.bearer.${bearer}`]);
  const events: unknown[] = [];
  const opened = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<Ending>();
  socket.addEventListener("open", () => opened.resolve());
  socket.addEventListener("message", ({ data }) => events.push(JSON.parse(data)));
  socket.addEventListener("close", ({ code, reason }) => {
    opened.reject(new Error(`Cannot subscribe to ${address}: ${code} ${reason}`));
    ended.resolve({ code, reason });
  });
  await within(opened.promise, "the handshake");
  return {
    protocol: socket.protocol,
    events,
    take: async (count) => {
      await until(() => events.length >= count);
      return events;
    },
    send: (text) => socket.send(text),
    close: () => socket.close(),
    ended: () => within(ended.promise, "the end"),
    [Symbol.dispose]: () => socket.close(),
  };
}

/** A message, or the server's close. */
export type Frame = { readonly text: string } | Ending;

/** An answer to a handshake, and the connection behind it. */
export interface Handshake extends Disposable {
  readonly status: number;
  readonly headers: Headers;
  /** The body of a refusal. */
  // deno-lint-ignore no-explicit-any -- what is in it is for the test to find out
  readonly body?: any;
  /** The next frame. */
  read(): Promise<Frame>;
  /** Sends bytes as they are. */
  write(bytes: Uint8Array): Promise<void>;
}

/** Sends a handshake and leaves it at that: whoever calls decides whether anything is ever read. */
export async function sendHandshake(
  { port }: Pick<TestDoor, "port">,
  query = "",
  headers: Record<string, string> = { authorization: `Bearer ${DOOR_TOKEN}` },
): Promise<Deno.TcpConn> {
  const connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const lines = [
    `GET /events${query} HTTP/1.1`,
    "host: snapmark",
    "upgrade: websocket",
    "connection: Upgrade",
    "sec-websocket-version: 13",
    `sec-websocket-key: ${KEY}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  await connection.write(new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`));
  return connection;
}

/** Shakes hands with headers of the caller's choice, and reads the answer. */
export async function shakeHands(
  door: Pick<TestDoor, "port">,
  query?: string,
  headers?: Record<string, string>,
): Promise<Handshake> {
  const connection = await sendHandshake(door, query, headers);
  const reader = new ByteReader(connection);
  const [line, ...lines] = (await reader.readTo("\r\n\r\n")).split("\r\n");
  const answered = new Headers(
    lines.filter((text) => text !== "").map((text) => text.split(": ", 2) as never),
  );
  const status = Number(line.split(" ")[1]);
  const length = Number(answered.get("content-length") ?? 0);
  return {
    status,
    headers: answered,
    ...(length === 0 ? {} : { body: JSON.parse(decode(await reader.take(length))) }),
    read: () => readFrame(reader),
    write: async (bytes) => {
      for (let sent = 0; sent < bytes.length;) sent += await connection.write(bytes.subarray(sent));
    },
    [Symbol.dispose]: () => connection.close(),
  };
}

/** A server's frame (RFC 6455, 5.2): whole, not masked, its length in 7, 16 or 64 bits. */
async function readFrame(reader: ByteReader): Promise<Frame> {
  const [first, short] = await reader.take(2);
  const extended = short === 126 ? 2 : short === 127 ? 8 : 0;
  const length = extended === 0 ? short : Number(`0x${(await reader.take(extended)).toHex()}`);
  const payload = await reader.take(length);
  if (first === FINAL_TEXT) return { text: decode(payload) };
  if (first !== FINAL_CLOSE) {
    throw new Error(`Cannot read this frame: expected text or close, found ${first}`);
  }
  return { code: payload[0] << 8 | payload[1], reason: decode(payload.subarray(2)) };
}

/** Reads a connection by as many bytes as are wanted. */
class ByteReader {
  #held = new Uint8Array(0);

  constructor(private readonly connection: Deno.TcpConn) {}

  async take(length: number): Promise<Uint8Array> {
    while (this.#held.length < length) await this.#fill();
    const taken = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    return taken;
  }

  async readTo(end: string): Promise<string> {
    while (!decode(this.#held).includes(end)) await this.#fill();
    return decode(await this.take(decode(this.#held).indexOf(end) + end.length));
  }

  async #fill(): Promise<void> {
    const chunk = new Uint8Array(65_536);
    const length = await within(this.connection.read(chunk), "the server's next bytes");
    if (length === null) throw new Error("Cannot read any further: the server ended the connection");
    const held = new Uint8Array(this.#held.length + length);
    held.set(this.#held);
    held.set(chunk.subarray(0, length), this.#held.length);
    this.#held = held;
  }
}

/** Bytes as characters of one byte each, so that counting one counts the other; what is read here is ASCII. */
function decode(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}

async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`Cannot wait any longer for ${what}`)), WAIT_MS_MAX);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
