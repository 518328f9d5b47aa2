/**
 * Connections that are lent whole, each to one user at a time, for what must not share one: a COPY or a transaction that is under
 * way.
 *
 * postgres.js can lend one of its pool (`reserve`). But a loan that was refused for a lost connection still waits in its queue, is
 * given a connection later, and keeps it for ever; and a connection that it makes anew under the same loan may carry
 * what was said before. So these are clients of one connection each, and one that was lost is thrown away.
 */

import type postgres from "postgres";
import { isConnectionError } from "./connection_error.ts";

export class SingleConnections {
  /** The one that was used last goes out first: its server's caches are warm. */
  readonly #idle: postgres.Sql[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly #clients = new Set<postgres.Sql>();

  /** @param openClient makes a client of one connection; it connects when it is first used. */
  constructor(private readonly openClient: () => postgres.Sql, private readonly connectionsMax: number) {}

  /** Lends a connection to `body`, once one is free. */
  async use<T>(body: (client: postgres.Sql) => Promise<T>): Promise<T> {
    const client = await this.#take();
    let lost = false;
    try {
      return await body(client);
    } catch (error) {
      lost = isConnectionError(error) || isConnectionError((error as Error).cause);
      throw error;
    } finally {
      this.#giveBack(client, lost);
    }
  }

  /** Ends all of them; statements in flight get `seconds` to finish. */
  async end(seconds: number): Promise<void> {
    await Promise.all([...this.#clients].map((client) => client.end({ timeout: seconds })));
  }

  async #take(): Promise<postgres.Sql> {
    while (this.#idle.length === 0 && this.#clients.size >= this.connectionsMax) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    const client = this.openClient();
    this.#clients.add(client);
    return client;
  }

  #giveBack(client: postgres.Sql, lost: boolean): void {
    if (lost) {
      this.#clients.delete(client);
      client.end({ timeout: 0 }).catch(() => {});
    } else {
      this.#idle.push(client);
    }
    this.#waiting.shift()?.();
  }
}
