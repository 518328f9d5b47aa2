/**
 * What a soak runs on: a server's process and a PostgreSQL of its own, which are killed and started again under the clients, and how
 * clients ask: again and again, until they have an answer that counts.
 */

import { startServerProcess, TEST_TOKEN, type TestServer } from "../support/server.ts";
import { type OwnPostgres, startOwnPostgres } from "../support/own_postgres.ts";

/** Longest wait for one answer, above every bound of the server's; and for one that counts. */
const ANSWER_MS_MAX = 60_000;
const ASK_MS_MAX = 180_000;
/** Pause of a client that was refused. */
const PAUSE_MS = 100;

/** A request; with a key it may be sent again where nobody knows. */
export interface Asking {
  readonly json?: unknown;
  readonly octets?: Uint8Array<ArrayBuffer>;
  readonly token?: string;
  readonly key?: string;
}

/** An answer; `outcome` is the status with the code of a refusal, or `lost`. */
export interface Answered {
  readonly outcome: string;
  // deno-lint-ignore no-explicit-any -- what is in it is for the caller to find out
  readonly body?: any;
}

/** Refusals that go by. */
const PASSING = /^(lost|50[34]|507 disk-full|409 (idempotency-key-in-progress|in-use)|429)/;

export class SoakBed implements AsyncDisposable {
  /** How often each outcome was. */
  readonly outcomes = new Map<string, number>();
  #server: TestServer;

  private constructor(readonly postgres: OwnPostgres, server: TestServer) {
    this.#server = server;
  }

  static async start(): Promise<SoakBed> {
    const postgres = await startOwnPostgres();
    try {
      return new SoakBed(postgres, await startServerProcess({ DATABASE_URL: postgres.url }));
    } catch (error) {
      await postgres[Symbol.asyncDispose]();
      throw error;
    }
  }

  get url(): string {
    return this.#server.url;
  }

  get serverPid(): number {
    return this.#server.pid;
  }

  /** Kills the server and starts another one, which has another address. */
  async killServer(): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    this.#server = await startServerProcess({ DATABASE_URL: this.postgres.url });
  }

  /** Kills every process of PostgreSQL and starts it again. */
  async killPostgres(): Promise<void> {
    await this.postgres.kill();
    await this.postgres.start();
  }

  /** Stops the server as one should; its exit code. */
  async stopServer(): Promise<number> {
    this.#server.kill("SIGTERM");
    return (await this.#server.ended()).code;
  }

  /** Sends a request once. */
  async send(method: string, path: string, asking: Asking = {}): Promise<Answered> {
    const answer = await this.#fetch(method, path, asking);
    this.outcomes.set(answer.outcome, (this.outcomes.get(answer.outcome) ?? 0) + 1);
    if (PASSING.test(answer.outcome)) await rest(PAUSE_MS);
    return answer;
  }

  /**
   * Sends a request until it succeeds, and answers the body.
   *
   * @param refusals outcomes that are as good; they answer nothing.
   * @throws {Error} for any other refusal, and when it takes too long.
   */
  // deno-lint-ignore no-explicit-any -- as above
  async ask(method: string, path: string, asking: Asking = {}, refusals: string[] = []): Promise<any> {
    const deadline = performance.now() + ASK_MS_MAX;
    for (;;) {
      const { outcome, body } = await this.send(method, path, asking);
      if (/^2/.test(outcome)) return body;
      if (refusals.includes(outcome)) return undefined;
      if (!PASSING.test(outcome) || performance.now() > deadline) {
        throw new Error(`${method} ${path} was answered ${outcome}: ${JSON.stringify(body)}`);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
    await this.postgres[Symbol.asyncDispose]();
  }

  async #fetch(method: string, path: string, asking: Asking): Promise<Answered> {
    const { json, octets, token = TEST_TOKEN, key } = asking;
    const type = octets !== undefined ? "application/octet-stream" : "application/json";
    try {
      const response = await fetch(`${this.url}${path}`, {
        method,
        headers: {
          authorization: `Bearer ${token}`,
          ...(octets === undefined && json === undefined ? {} : { "content-type": type }),
          ...(key === undefined ? {} : { "idempotency-key": key }),
        },
        ...(octets === undefined && json === undefined ? {} : { body: octets ?? JSON.stringify(json) }),
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      return await readAnswer(response);
    } catch {
      return { outcome: "lost" };
    }
  }
}

async function readAnswer(response: Response): Promise<Answered> {
  const isOctets = response.headers.get("content-type") === "application/octet-stream";
  const bytes = await response.bytes();
  const body = isOctets
    ? bytes
    : bytes.length === 0
    ? undefined
    : JSON.parse(new TextDecoder().decode(bytes));
  const code = response.ok ? [] : [body?.code];
  return { outcome: [response.status, ...code].join(" "), body };
}

/** Waits; a soak goes on for as long as it is told, whatever happens. */
export async function rest(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}
