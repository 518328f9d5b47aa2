/**
 * A client of the HTTP door that is killed at: it sends nothing more once a blow has fallen, and takes whatever is answered.
 */

import { TEST_TOKEN } from "../support/server.ts";
import type { KillBed } from "./kill_bed.ts";

/** Above every bound of the server. */
const ANSWER_MS_MAX = 60_000;

/** How long a server may take to notice that its database is back. */
const RETRY_MS_MAX = 10_000;
const RETRY_PAUSE_MS = 20;

/** What became of a request, as its client knows it. */
export type Outcome =
  // deno-lint-ignore no-explicit-any -- what is in an answer is for the caller to find out
  | { readonly kind: "done"; readonly status: number; readonly body: any }
  /** It was told that nothing was changed. */
  | { readonly kind: "refused"; readonly code: string }
  | { readonly kind: "unknown" };

/** What is refused while something is dead. */
const PASSING = ["database-unavailable", "timed-out", "too-busy", "cache-full"];

/** Thrown instead of sending, when something is dead. */
export class Struck extends Error {}

export class Caller {
  constructor(private readonly bed: KillBed) {}

  /**
   * Sends a request; again while it is refused for the database though nothing is dead any more: nothing was changed then.
   *
   * @throws {Struck} when something is dead.
   * @throws {Error} when it is refused for another reason than that something is dead.
   */
  async call(method: string, path: string, body?: Uint8Array<ArrayBuffer> | object): Promise<Outcome> {
    if (this.bed.isStruck) throw new Struck();
    const outcome = await this.#send(method, path, body);
    if (outcome.kind !== "refused" || PASSING.includes(outcome.code)) return outcome;
    throw new Error(`${method} ${path} was refused: ${outcome.code}`);
  }

  /** Reads what has to be there. */
  // deno-lint-ignore no-explicit-any
  async get(path: string): Promise<any> {
    const body = await this.find(path);
    if (body !== undefined) return body;
    throw new Error(`GET ${path} found nothing`);
  }

  /** The same, or nothing if it is not found. */
  // deno-lint-ignore no-explicit-any
  async find(path: string): Promise<any> {
    const outcome = await this.#send("GET", path);
    if (outcome.kind === "refused" && outcome.code.endsWith("-not-found")) return undefined;
    if (outcome.kind === "done") return outcome.body;
    throw new Error(`GET ${path} was answered ${JSON.stringify(outcome)}`);
  }

  async #send(method: string, path: string, body?: Uint8Array<ArrayBuffer> | object): Promise<Outcome> {
    for (const deadline = Date.now() + RETRY_MS_MAX;;) {
      const outcome = await this.#fetch(method, path, body);
      // A connection that was kept may end while nobody uses it; what only reads can be asked again.
      const passes = outcome.kind === "refused"
        ? PASSING.includes(outcome.code)
        : outcome.kind === "unknown" && method === "GET";
      if (!passes || this.bed.isStruck || Date.now() > deadline) return outcome;
      await new Promise((resolve) => setTimeout(resolve, RETRY_PAUSE_MS));
    }
  }

  async #fetch(method: string, path: string, body?: Uint8Array<ArrayBuffer> | object): Promise<Outcome> {
    const isOctets = body instanceof Uint8Array;
    try {
      const response = await fetch(`${this.bed.url}${path}`, {
        method,
        body: body === undefined ? null : isOctets ? body : JSON.stringify(body),
        headers: {
          authorization: `Bearer ${TEST_TOKEN}`,
          ...(body === undefined
            ? {}
            : { "content-type": isOctets ? "application/octet-stream" : "application/json" }),
        },
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      const answered = await readBody(response);
      if (response.ok) return { kind: "done", status: response.status, body: answered };
      const { code } = answered as { code: string };
      return code === "outcome-unknown" ? { kind: "unknown" } : { kind: "refused", code };
    } catch (error) {
      if (!this.bed.isStruck && !(error instanceof TypeError)) throw error;
      return { kind: "unknown" };
    }
  }
}

async function readBody(response: Response): Promise<unknown> {
  const bytes = await response.bytes();
  if (bytes.length === 0) return undefined;
  const isOctets = response.headers.get("content-type") === "application/octet-stream";
  return isOctets ? bytes : JSON.parse(new TextDecoder().decode(bytes));
}
