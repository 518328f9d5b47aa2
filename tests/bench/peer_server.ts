/**
 * The peers of `put` and `read`: the same HTTP door around what one would write first, one statement a request.
 *
 *     deno run peer_server.ts '{"kind": "insert", "token": "…", "databaseUrl": "…", "blockCount": 0}'
 *
 * `insert` answers a write after one `INSERT`, `select` a read by one prepared `select` on a primary key.
 */

import { HTTP_LIMITS, STORAGE_LIMITS } from "../../src/config.ts";
import { type Database, openDatabase } from "../../src/database/client.ts";
import { Metrics } from "../../src/http/metrics.ts";
import { serveHttp } from "../../src/http/server.ts";
import type { Trim, Write } from "../../src/storage/append.ts";
import type { BlockRange } from "../../src/storage/block.ts";
import { Storage } from "../../src/storage/storage.ts";
import { authenticateAdmin } from "../../src/token.ts";
import { createBlockTable } from "./block_table.ts";

/** Connections for each peer's best result. */
const CONNECTIONS = 16;
const CACHE_BYTES_MAX = 2 ** 34;

interface PeerOrder {
  readonly kind: "insert" | "select";
  readonly token: string;
  readonly databaseUrl: string;
  /** Rows to read. */
  readonly blockCount: number;
}

class InsertStorage extends Storage {
  override async append(
    _actor: unknown,
    _reference: string,
    _pool: string | undefined,
    [write]: (Write | Trim)[],
  ): Promise<{ sequence: number; blockCount: number }> {
    if (!("data" in write)) throw new Error("Cannot trim: the peer only writes");
    const [{ sequence }] = await this.database.$client<{ sequence: number }[]>`
      insert into peer_writes (lba, data) values (${write.lba}, ${write.data}) returning sequence`;
    return { sequence, blockCount: 1 };
  }
}

class SelectStorage extends Storage {
  override async readVolume(
    _reference: string,
    _pool: string | undefined,
    { lba }: BlockRange,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const [{ data }] = await this.database.$client<{ data: Uint8Array<ArrayBuffer> }[]>`
      select data from peer_blocks where lba = ${lba}`;
    return data;
  }
}

async function createTables(database: Database, { kind, blockCount }: PeerOrder): Promise<void> {
  if (kind === "select") return await createBlockTable(database, "peer_blocks", blockCount);
  await database.$client.unsafe(`
    create table peer_writes (
      sequence bigint generated always as identity primary key, lba bigint not null, data bytea not null
    ) with (toast_tuple_target = 8160);
    alter table peer_writes alter column data set storage external`);
}

async function main(order: PeerOrder): Promise<void> {
  const database = openDatabase(order.databaseUrl, { connectionsMax: CONNECTIONS });
  await createTables(database, order);
  const options = { database, limits: STORAGE_LIMITS, flusher: false };
  const { url } = serveHttp({
    storage: order.kind === "insert" ? new InsertStorage(options) : new SelectStorage(options),
    limits: { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax },
    metrics: new Metrics(),
    cacheBytesMax: CACHE_BYTES_MAX,
    authenticate: authenticateAdmin(order.token),
    onRequest: () => {},
    onFault: (error) => console.error(error),
    onCorrupt: (error) => console.error(error),
  }, { host: "127.0.0.1", port: 0 });
  console.log(`The peer serves at ${url}`);
}

if (import.meta.main) await main(JSON.parse(Deno.args[0]));
