/**
 * Connections that are lent whole, each to one user at a time, for what must not share one: a COPY or a transaction that is under
 * way.
 *
 * postgres.js can lend one of its pool (`reserve`). But a loan that was refused for a lost connection still waits in its queue, is
 * given a connection later, and keeps it for ever; and a connection that it makes anew under the same loan may carry
 * what was said before. So these are clients of one connection each, and one that was lost is thrown away.
 */

import type postgres from "postgres";
import { StorageError } from "../errors.ts";
import { isConnectionLost } from "./connection_error.ts";

export interface SingleConnectionsOptions {
  readonly connectionsMax: number;
  /** How long a loan waits for a connection. */
  readonly waitMsMax: number;
}

export class SingleConnections {
  /** The one that was used last goes out first: its server's caches are warm. */
  readonly #idle: postgres.Sql[] = [];
  /** Those that wait for one, in their order. */
  readonly #waiting = new Set<(client: postgres.Sql) => void>();
  readonly #clients = new Set<postgres.Sql>();

  /** @param openClient makes a client of one connection; it connects when it is first used. */
  constructor(
    private readonly openClient: () => postgres.Sql,
    private readonly options: SingleConnectionsOptions,
  ) {}

  /** Lends a connection to `body`, once one is free. @throws {StorageError} `too-busy` when none is in time. */
  async use<T>(body: (client: postgres.Sql) => Promise<T>): Promise<T> {
    const client = await this.#take();
    let lost = false;
    try {
      return await body(client);
    } catch (error) {
      lost = isConnectionLost(error) || isConnectionLost((error as Error).cause);
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
    const idle = this.#idle.pop();
    if (idle !== undefined) return idle;
    return this.#clients.size < this.options.connectionsMax ? this.#open() : await this.#wait();
  }

  #open(): postgres.Sql {
    const client = this.openClient();
    this.#clients.add(client);
    return client;
  }

  async #wait(): Promise<postgres.Sql> {
    const { promise, resolve, reject } = Promise.withResolvers<postgres.Sql>();
    const timer = setTimeout(() => {
      this.#waiting.delete(resolve);
      reject(new StorageError("too-busy", "Cannot go on: every connection to the database is in use"));
    }, this.options.waitMsMax);
    this.#waiting.add(resolve);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #giveBack(client: postgres.Sql, lost: boolean): void {
    if (lost) {
      this.#clients.delete(client);
      client.end({ timeout: 0 }).catch(() => {});
    }
    const [next] = this.#waiting;
    if (next !== undefined) {
      this.#waiting.delete(next);
      next(lost ? this.#open() : client);
    } else if (!lost) {
      this.#idle.push(client);
    }
  }
}
