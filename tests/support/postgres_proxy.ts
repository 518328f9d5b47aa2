/**
 * A proxy in front of a PostgreSQL, which knows statements from answers: whoever tests faults is asked before each statement goes
 * on to PostgreSQL, and again when it was answered and before the client sees any of that answer. What is asked may wait, so
 * connections can be slow or hang; and all of them can be cut.
 *
 * A statement is what a client sends up to where it waits, or could wait, for an answer:
 * - simple ones, of one message (`Query`), also when they are several;
 * - prepared ones, up to their `Sync`, whatever came before (`Parse`, `Bind`, `Execute`);
 * - the end of a COPY (`CopyDone`), as {@linkcode COPY_DONE}. The data before it are forwarded as they come.
 * A client that asks how a statement is described (`Flush`) only looks, and its look is forwarded as it is.
 *
 * Answers come in the order of the statements, so each is known by its end: `ReadyForQuery`, or `CopyInResponse` for the
 * beginning of a COPY. An answer is held back in memory until it is whole.
 */

import { type Frame, FrameReader, readTexts } from "./postgres_wire.ts";

/** What a client asks of PostgreSQL. */
export interface ProxiedStatement {
  /** Of its connection, counted from 1 for each proxy. */
  readonly connection: number;
  /** As the client has written it; of several, one behind the other. */
  readonly text: string;
}

/** The text of the statement that ends a COPY. */
export const COPY_DONE = "copy done";

/** What is awaited. A fault of one of them cuts the connection. */
export interface ProxyHooks {
  /** Before a client is connected with PostgreSQL. */
  readonly onConnect?: () => void | Promise<void>;
  /** Before a statement goes on to PostgreSQL. */
  readonly onStatement?: (statement: ProxiedStatement) => void | Promise<void>;
  /** When PostgreSQL has answered a statement, before the client sees any of it. */
  readonly onAnswer?: (statement: ProxiedStatement) => void | Promise<void>;
}

export interface PostgresProxy extends AsyncDisposable {
  /** What a client takes for the URL of PostgreSQL. */
  readonly url: string;
  /** Asked from the next statement on. */
  hooks: ProxyHooks;
  /** Ends all connections on both sides; further ones are taken. Answers the process ids that PostgreSQL had for them. */
  cut(): number[];
}

/** Starts a proxy on a free port of this machine, in front of the PostgreSQL that `url` names (by TCP or by socket directory). */
export function startPostgresProxy(url: string, hooks: ProxyHooks = {}): PostgresProxy {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const connections = new Map<ProxiedConnection, Promise<void>>();
  let count = 0;
  const proxy: PostgresProxy = {
    url: atListener(url, listener),
    hooks,
    cut: () => {
      const cut = [...connections.keys()];
      for (const connection of cut) connection.close();
      return cut.flatMap(({ serverPid }) => serverPid ?? []);
    },
    [Symbol.asyncDispose]: async () => {
      listener.close();
      proxy.cut();
      await accepting;
      await Promise.all(connections.values());
    },
  };
  const take = (client: Deno.TcpConn) => {
    const connection = new ProxiedConnection(client, ++count, () => proxy.hooks);
    connections.set(
      connection,
      connection.run(() => connect(url)).finally(() => connections.delete(connection)),
    );
  };
  const accepting = (async () => {
    try {
      for await (const client of listener) take(client);
    } catch {
      // It was closed while it waited.
    }
  })();
  return proxy;
}

type Connection = Deno.TcpConn | Deno.UnixConn;

async function connect(url: string): Promise<Connection> {
  const parsed = new URL(url);
  const host = parsed.searchParams.get("host") ?? decodeURIComponent(parsed.hostname);
  const port = Number(parsed.port || 5432);
  return host.startsWith("/")
    ? await Deno.connect({ transport: "unix", path: `${host}/.s.PGSQL.${port}` })
    : await Deno.connect({ hostname: host, port });
}

function atListener(url: string, { addr }: Deno.TcpListener): string {
  const { username, password, pathname } = new URL(url);
  const user = password === "" ? username : `${username}:${password}`;
  return `postgres://${user}@127.0.0.1:${addr.port}${pathname}`;
}

/** What ends the answer to a statement, by what ended the statement. */
const ANSWER_ENDS: Readonly<Record<string, string>> = { Q: "ZG", S: "Z", c: "Z", f: "Z", H: "TnE" };

/** Code of a client's request for TLS or for GSSAPI, which it is refused, in place of a version. */
const ENCRYPTION_REQUESTS = [80877103, 80877104];
const CANCEL_REQUEST = 80877102;
const REFUSED = new TextEncoder().encode("N");

interface Asked {
  readonly statement: ProxiedStatement;
  /** The type of the frame that ended it. */
  readonly by: string;
}

class ProxiedConnection {
  /** The process that serves it. */
  serverPid?: number;
  #server?: Connection;
  #closed = false;
  readonly #prepared = new Map<string, string>();
  /** What is still to be answered, in order. */
  readonly #asked: Asked[] = [];
  /** PostgreSQL has ended a COPY before its client did, so it will not answer that end. */
  #copyFailed = false;
  #copying = false;

  constructor(
    private readonly client: Connection,
    private readonly number: number,
    private readonly hooks: () => ProxyHooks,
  ) {}

  /** Forwards until one of both sides ends, or the proxy does. */
  async run(connectServer: () => Promise<Connection>): Promise<void> {
    try {
      await this.hooks().onConnect?.();
      if (this.#closed) return;
      this.#server = await connectServer();
      if (this.#closed) return;
      const requests = new FrameReader(this.client);
      if (!await this.#start(requests, this.#server)) return;
      await Promise.race([this.#forward(requests, this.#server), this.#answer(this.#server)]);
    } catch {
      // One of both sides has ended.
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#closed = true;
    for (const side of [this.client, this.#server]) {
      try {
        side?.close();
      } catch {
        // It is closed.
      }
    }
  }

  /** The first message; false when none follow it. */
  async #start(requests: FrameReader, server: Connection): Promise<boolean> {
    for (;;) {
      const first = await requests.nextUntyped();
      if (first === undefined) return false;
      const code = new DataView(first.body.buffer, first.body.byteOffset).getUint32(0);
      if (ENCRYPTION_REQUESTS.includes(code)) await writeAll(this.client, REFUSED);
      else {
        await writeAll(server, first.bytes);
        return code !== CANCEL_REQUEST;
      }
    }
  }

  async #forward(requests: FrameReader, server: Connection): Promise<void> {
    let group: Frame[] = [];
    for (;;) {
      const frame = await requests.next();
      if (frame === undefined) return;
      group.push(frame);
      if ("PBDECF".includes(frame.type)) continue;
      if (frame.type in ANSWER_ENDS) await this.#ask(group);
      for (const { bytes } of group) await writeAll(server, bytes);
      group = [];
    }
  }

  /** Asks whoever tests, and remembers what is to be answered. */
  async #ask(group: Frame[]): Promise<void> {
    const by = group[group.length - 1].type;
    const statement = { connection: this.number, text: this.#readText(group) };
    if (by !== "H") await this.hooks().onStatement?.(statement);
    if (this.#closed) throw new Error("The connection was cut");
    const ends = by === "c" || by === "f";
    if (!(ends && this.#copyFailed)) this.#asked.push({ statement, by });
    this.#copyFailed = false;
  }

  #readText(group: Frame[]): string {
    return group.flatMap(({ type, body }) => {
      if (type === "Q") return readTexts(body, 1);
      if (type === "c") return [COPY_DONE];
      const [first, second] = readTexts(body, 2);
      if (type === "P") this.#prepared.set(first, second);
      return type === "B" ? [this.#prepared.get(second) ?? ""] : [];
    }).join(";");
  }

  async #answer(server: Connection): Promise<void> {
    const answers = new FrameReader(server);
    let held: Uint8Array[] = [];
    for (;;) {
      const frame = await answers.next();
      if (frame === undefined) return;
      held.push(frame.bytes);
      this.#follow(frame);
      const [asked] = this.#asked;
      if (asked !== undefined && !ANSWER_ENDS[asked.by].includes(frame.type)) continue;
      if (asked !== undefined) {
        this.#asked.shift();
        if (asked.by !== "H") await this.hooks().onAnswer?.(asked.statement);
        if (this.#closed) return;
      }
      if (asked === undefined && answers.hasNext) continue;
      await writeAll(this.client, concatenate(held));
      held = [];
    }
  }

  #follow({ type, body }: Frame): void {
    if (type === "K") this.serverPid = new DataView(body.buffer, body.byteOffset).getUint32(0);
    if (type === "G") this.#copying = true;
    if (type === "E" && this.#copying) this.#copyFailed = !this.#asked.some(({ by }) => "cf".includes(by));
    if (type === "Z") this.#copying = false;
  }
}

async function writeAll(connection: Connection, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await connection.write(bytes.subarray(done));
}

function concatenate(parts: Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0];
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
