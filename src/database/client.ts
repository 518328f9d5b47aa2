/**
 * The connection to PostgreSQL: a bounded pool of postgres.js connections with drizzle on top, and transactions
 * that offer both.
 *
 * Two ways to say a statement, one connection: drizzle for what is plain, and `$client` (postgres.js' tagged
 * templates) for what is hot. drizzle sends its statements unprepared, which costs a second round trip and a new
 * plan every time; tagged templates are prepared once per connection. `$client` also is the only way to COPY.
 *
 * Every session is set up the same way:
 * - The planner's ways other than walking an index from a known key are off, and so is `jit`. That is what every
 *   statement of the storage system does; the other ideas come from statistics of a queue that was empty (or full) when
 *   they were taken, and a prepared plan outlives them.
 * - What the program stands on is said, whatever the role or the database has for a default: durable commits, the isolation
 *   level, the formats that are parsed.
 * - Time limits, so that no statement and no forgotten transaction holds a lock for ever.
 */

import { drizzle, type PostgresJsDatabase } from "drizzle-orm/postgres-js";
import postgres from "postgres";
import { StorageError } from "../errors.ts";
import { findFault, isConnectionLost } from "./connection_error.ts";
import { SingleConnections } from "./single_connections.ts";
import { withWholeResults } from "./whole_results.ts";

/**
 * Connections of one process. A process needs few: two append to a pool, one flushes, two read, one is for the rest. More are
 * worse: postgres.js goes round all of them, and with 12 as many servers' caches stay cold (a sixth less in 4 KiB writes).
 */
export const CONNECTIONS_MAX = 6;
/** Further ones, which are only made when batches are appended: two under way in each of two pools. */
const SINGLE_CONNECTIONS_MAX = 4;
/** And for transactions, each for one at a time. */
const TRANSACTION_CONNECTIONS_MAX = 6;
/** Longest wait for a connection to be made. */
const CONNECT_SECONDS_MAX = 10;
/** Longest wait for one of those that are lent whole: each is free again within moments, unless the database hangs. */
const LOAN_MS_MAX = 10_000;
/** Times that a transaction is tried which others are in the way of, and the longest pause before each further time. */
const TRIES_MAX = 5;
const TRY_PAUSE_MS_MAX = 20;
/** Pause before a lost connection is made again, from the first try to the later ones. */
const RECONNECT_SECONDS_MIN = 0.05;
const RECONNECT_SECONDS_MAX = 1;
/** Longest run of one statement; the longest one of ours, a flush batch, takes well below a second. */
const STATEMENT_MS_MAX = 30_000;
/** Longest pause inside a transaction, after which PostgreSQL ends it: a stopped process must not keep a lock. */
const IDLE_IN_TRANSACTION_MS_MAX = 10_000;

/** What a postgres.js client and one of its transactions have in common: tagged templates. */
export type Client = postgres.ISql<Record<never, never>>;
/** The database: drizzle, with postgres.js in `$client`, and the connections that are lent whole. */
export type Database = PostgresJsDatabase & {
  $client: postgres.Sql;
  singleConnections: SingleConnections;
  transactionConnections: SingleConnections;
};
/** A transaction: what a writing function takes first. */
export type Transaction = PostgresJsDatabase & { $client: postgres.TransactionSql };
/** Either: what a reading function takes first. */
export type Connection = Database | Transaction;

/**
 * postgres.js asks for the server's array types in the background whenever it connects. If the connection is lost just then it
 * connects again, and rejects a promise that nobody holds, which would end the process; so does that question when it is cancelled or
 * takes too long. So the loss of a connection that nobody awaits, and that question, are let pass, and nothing else.
 */
function forgiveLostConnections(): void {
  globalThis.addEventListener("unhandledrejection", forgive);
}

function forgive(event: PromiseRejectionEvent): void {
  const { reason } = event;
  const isArrayTypes = findFault(reason) !== undefined && String(reason.query).includes("pg_catalog.pg_type");
  if (isConnectionLost(reason) || isArrayTypes) event.preventDefault();
}

/** Opens the pool of connections that `url` names (`postgres://…`; a percent-encoded or `host=` socket directory works). */
export function openDatabase(
  url: string,
  options: { connectionsMax?: number; transactionsMax?: number; loanMsMax?: number } = {},
): Database {
  forgiveLostConnections();
  const { address, socketDirectory } = parseDatabaseUrl(url);
  const shared = {
    ...(socketDirectory === undefined ? {} : { host: socketDirectory }),
    connect_timeout: CONNECT_SECONDS_MAX,
    backoff: (retries: number) => Math.min(RECONNECT_SECONDS_MIN * 2 ** retries, RECONNECT_SECONDS_MAX),
    onnotice: () => {},
    types: { bytea: BYTEA, count: COUNT },
    connection: SESSION as unknown as Partial<postgres.ConnectionParameters>,
  };
  const client = withWholeResults(
    postgres(address, { ...shared, max: options.connectionsMax ?? CONNECTIONS_MAX }) as postgres.Sql,
  );
  const singleConnections = new SingleConnections(
    () => postgres(address, { ...shared, max: 1, fetch_types: false }) as postgres.Sql,
    { connectionsMax: SINGLE_CONNECTIONS_MAX, waitMsMax: LOAN_MS_MAX },
  );
  const transactionConnections = new SingleConnections(
    () => postgres(address, { ...shared, max: 1 }) as postgres.Sql,
    {
      connectionsMax: options.transactionsMax ?? TRANSACTION_CONNECTIONS_MAX,
      waitMsMax: options.loanMsMax ?? LOAN_MS_MAX,
    },
  );
  return Object.assign(drizzle(client), { singleConnections, transactionConnections }) as Database;
}

/** Ends every connection; statements in flight get `seconds` to finish. */
export async function closeDatabase(database: Database, seconds = 5): Promise<void> {
  await Promise.all([
    database.$client.end({ timeout: seconds }),
    database.singleConnections.end(seconds),
    database.transactionConnections.end(seconds),
  ]);
}

/**
 * Runs `body` in one transaction and answers what it answers. Where others are in the way (a deadlock, a serialization failure)
 * nothing was committed, and it runs again, a bounded number of times: so it must change nothing but the database.
 *
 * @throws {StorageError} `outcome-unknown` when the connection was lost while committing; `too-busy` when no connection is free.
 */
export async function transact<T>(database: Database, body: (tx: Transaction) => Promise<T>): Promise<T> {
  for (let tries = 1;; tries++) {
    try {
      return await tryTransaction(database, body);
    } catch (error) {
      if (findFault(error) !== "conflict" || tries === TRIES_MAX) throw error;
    }
    // Of two that are in each other's way, one should be first.
    await new Promise((resolve) => setTimeout(resolve, Math.random() * TRY_PAUSE_MS_MAX * tries));
  }
}

/**
 * It has a connection of its own meanwhile. On one that postgres.js shares, a BEGIN behind a hundred statements in flight, or
 * behind more bytes than the platform takes at once, is sent and then refused (UNSAFE_TRANSACTION): whatever came next on
 * that connection would run in a transaction that nobody commits.
 *
 * When the connection is lost, postgres.js rejects the transaction by itself. Then two things must not happen (porsager/postgres
 * issues 1154, 1208 and 1216, open):
 * - It would write a ROLLBACK to the socket that is gone, which ends the process or spoils the connection it makes next. So
 *   a body that failed for that reason is never told to have ended.
 * - What the body still says would run in whichever transaction has the connection next. So it is refused.
 */
async function tryTransaction<T>(database: Database, body: (tx: Transaction) => Promise<T>): Promise<T> {
  let finished = false;
  let ended = false;
  try {
    const result = await database.transactionConnections.use((lent) =>
      lent.begin(async (client) => {
        try {
          const value = await body(asTransaction(lent, client, () => ended));
          finished = true;
          return { value };
        } catch (error) {
          return isConnectionLost(error) ? await new Promise<never>(() => {}) : await Promise.reject(error);
        }
      })
    );
    return result.value as T;
  } catch (error) {
    if (finished && isConnectionLost(error)) {
      throw new StorageError(
        "outcome-unknown",
        "Cannot tell whether the request took effect: the database connection was lost at its commit",
        { cause: error },
      );
    }
    throw error;
  } finally {
    ended = true;
  }
}

const SESSION = {
  application_name: "snapmark",
  bytea_output: "hex",
  DateStyle: "ISO",
  default_transaction_isolation: "read committed",
  enable_bitmapscan: "off",
  enable_hashjoin: "off",
  enable_material: "off",
  enable_mergejoin: "off",
  enable_seqscan: "off",
  idle_in_transaction_session_timeout: String(IDLE_IN_TRANSACTION_MS_MAX),
  jit: "off",
  statement_timeout: String(STATEMENT_MS_MAX),
  synchronous_commit: "on",
  TimeZone: "UTC",
};

/** postgres.js takes bytea apart with Buffer; the platform's own routine is half as slow again for ranges of blocks. */
const BYTEA = {
  to: 17,
  from: [17],
  serialize: (bytes: Uint8Array) => "\\x" + bytes.toHex(),
  parse: (text: string) => Uint8Array.fromHex(text.slice(2)),
};

/** Every bigint column counts things or bytes of one system and stays below 2^53. */
const COUNT = {
  to: 20,
  from: [20],
  serialize: (count: number) => String(count),
  parse: (text: string) => Number(text),
};

/**
 * A transaction's client for drizzle and for us, which refuses statements once the transaction has `ended`. drizzle reads the
 * parsers of the client it is given, and postgres.js keeps those of a transaction elsewhere.
 */
function asTransaction(
  lent: postgres.Sql,
  client: postgres.TransactionSql,
  ended: () => boolean,
): Transaction {
  const requireOpen = () => {
    if (ended()) throw Object.assign(new Error("The transaction has ended"), { code: "CONNECTION_CLOSED" });
  };
  const answering = withWholeResults(client);
  const { unsafe } = answering;
  const carrier = Object.assign(answering, {
    options: lent.options,
    unsafe: (...args: Parameters<typeof unsafe>) => (requireOpen(), unsafe(...args)),
  });
  const guarded = new Proxy(carrier, {
    apply: (
      target,
      self,
      args,
    ) => (requireOpen(), Reflect.apply(target as unknown as () => unknown, self, args)),
  });
  return drizzle(guarded as unknown as postgres.Sql) as unknown as Transaction;
}

/** Takes apart what postgres.js does not know: a socket directory as percent-encoded host or as `host=` parameter. */
function parseDatabaseUrl(url: string): { address: string; socketDirectory?: string } {
  const parsed = new URL(url);
  const host = parsed.searchParams.get("host") ?? decodeURIComponent(parsed.hostname);
  if (!host.startsWith("/")) return { address: url };
  parsed.searchParams.delete("host");
  if (parsed.hostname !== "") parsed.hostname = "localhost";
  return { address: parsed.href, socketDirectory: host };
}
