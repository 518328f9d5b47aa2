/**
 * Clients that write and take snapshots over HTTP whatever is answered, and what they know: of each block, the writes in their
 * order, and whether each was answered, refused, or may have happened or not.
 *
 * Each writer has blocks of its own and one request at a time. So a block holds the last write that was answered, or one
 * behind it of which nobody can tell; a write that was refused it holds never.
 */

import { assert, assertEquals } from "@std/assert";
import type { Client } from "../support/client.ts";
import { TEST_TOKEN } from "../support/server.ts";
import { below, fill, readStamps, seeded } from "../support/history.ts";

const WRITERS = 4;
const BLOCKS_PER_WRITER = 8;
export const LOAD_BLOCKS = WRITERS * BLOCKS_PER_WRITER;
const BLOCK_BYTES = 4096;
/** Longest wait for an answer: above every bound of the server. */
const ANSWER_MS_MAX = 60_000;
/** Pause of a client that was refused, as `Retry-After` would have it, but shorter. */
const PAUSE_MS = 20;

interface Attempt {
  readonly stamp: number;
  /** Absent when nobody can tell whether it happened. */
  readonly sequence?: number;
}

export class Load {
  /** How often each status and code was answered; `lost` for no answer at all. */
  readonly outcomes = new Map<string, number>();
  readonly cuts: { id: string; sequence: number }[] = [];
  readonly #attempts: Attempt[][] = Array.from({ length: LOAD_BLOCKS }, () => []);
  #answered = 0;
  #stamp = 0;
  #going = true;
  readonly #clients: Promise<unknown>;

  /** Starts the clients, on a volume of {@linkcode LOAD_BLOCKS} blocks. */
  constructor(private readonly url: string, private readonly volume: string, seed: number) {
    const writers = Array.from({ length: WRITERS }, (_, index) => this.#write(index, seeded(seed + index)));
    this.#clients = Promise.all([...writers, this.#snapshot()]);
  }

  /** Writes that were answered so far. */
  get answered(): number {
    return this.#answered;
  }

  /** Waits until `count` more writes are answered. */
  async answer(count: number): Promise<void> {
    const enough = this.#answered + count;
    const deadline = Date.now() + ANSWER_MS_MAX;
    while (this.#answered < enough) {
      if (Date.now() > deadline) {
        throw new Error(`Cannot wait longer for ${count} answers: ${this.describe()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Ends the clients with their requests in hand. */
  async stop(): Promise<void> {
    this.#going = false;
    await this.#clients;
  }

  /** Fails unless each block is as was answered before that sequence. */
  check(bytes: Uint8Array, before = Infinity): void {
    for (const [lba, stamp] of readStamps(bytes, BLOCK_BYTES).entries()) {
      const allowed = this.#allowed(lba, before);
      if (!allowed.has(stamp)) {
        throw new Error(`Block ${lba} holds ${stamp}, expected ${[...allowed]} before ${before}`);
      }
    }
  }

  /**
   * Ends the clients. Fails unless all that was answered is there, every snapshot seals and is exact, and nothing was
   * answered but success or 503.
   */
  async verify(client: Client): Promise<void> {
    await this.stop();
    const others = [...this.outcomes.keys()].filter((outcome) => !/^20[02]$|^503 /.test(outcome));
    assertEquals(others, [], this.describe());
    this.check(await client.readVolume(this.volume, LOAD_BLOCKS));
    await client.flush("main");
    this.check(await client.readVolume(this.volume, LOAD_BLOCKS));
    assert(this.cuts.length > 0);
    for (const { id, sequence } of this.cuts) {
      assertEquals((await client.getSnapshot(id)).status, "sealed");
      this.check(await client.readSnapshot(id, this.volume, LOAD_BLOCKS), sequence);
    }
    assertEquals((await client.getPool("main")).dirtyEntries, 0);
  }

  describe(): string {
    return [...this.outcomes].map(([outcome, count]) => `${outcome} ${count}`).join(", ");
  }

  #allowed(lba: number, before: number): Set<number> {
    let allowed = new Set([0]);
    for (const { stamp, sequence } of this.#attempts[lba]) {
      if (sequence === undefined) allowed.add(stamp);
      else if (sequence < before) allowed = new Set([stamp]);
      else break;
    }
    return allowed;
  }

  async #write(writer: number, random: () => number): Promise<void> {
    while (this.#going) {
      const lba = writer * BLOCKS_PER_WRITER + below(random, BLOCKS_PER_WRITER);
      const stamp = ++this.#stamp;
      const body = fill(stamp, 1, BLOCK_BYTES);
      const answer = await this.#request("PUT", `/volumes/${this.volume}/blocks/${lba}`, body);
      if (answer.outcome === "200") {
        this.#attempts[lba].push({ stamp, sequence: answer.body.sequence });
        this.#answered += 1;
      } else if (/outcome-unknown|lost/.test(answer.outcome)) this.#attempts[lba].push({ stamp });
    }
  }

  async #snapshot(): Promise<void> {
    while (this.#going) {
      const json = JSON.stringify({ volumes: [this.volume] });
      const { outcome, body } = await this.#request("POST", "/snapshots", json);
      if (outcome === "202") this.cuts.push({ id: body.id, sequence: body.sequence });
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  // deno-lint-ignore no-explicit-any -- what is in an answer is for the caller to find out
  async #request(method: string, path: string, body: BodyInit): Promise<{ outcome: string; body?: any }> {
    const answer = await this.#fetch(method, path, body);
    this.outcomes.set(answer.outcome, (this.outcomes.get(answer.outcome) ?? 0) + 1);
    if (!answer.outcome.startsWith("2")) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    return answer;
  }

  async #fetch(method: string, path: string, body: BodyInit): Promise<{ outcome: string; body?: unknown }> {
    try {
      const response = await fetch(`${this.url}${path}`, {
        method,
        body,
        headers: {
          authorization: `Bearer ${TEST_TOKEN}`,
          "content-type": typeof body === "string" ? "application/json" : "application/octet-stream",
        },
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      const answered = await response.json();
      return { outcome: [response.status, answered.code].filter(Boolean).join(" "), body: answered };
    } catch {
      return { outcome: "lost" };
    }
  }
}
