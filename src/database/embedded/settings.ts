/**
 * What the bundled PostgreSQL is told at every start, each setting with its reason.
 *
 * The settings travel on the command line and not in `postgresql.conf`, so that a data directory made by an older
 * version gets today's values, and so that the socket directory can change between two starts. What decides whether a
 * commit survives a crash (fsync, synchronous_commit, full_page_writes) stays at PostgreSQL's own default.
 */

/** The port, which for a Unix socket is only part of the file's name. */
export const SOCKET_PORT = 5432;

const SETTINGS: Readonly<Record<string, string>> = {
  // Nothing listens on the network: whoever may enter the socket directory is trusted, nobody else gets that far.
  listen_addresses: "",
  port: String(SOCKET_PORT),
  unix_socket_permissions: "0700",
  // A server and a few workers with a pool of 10 to 20 connections each.
  max_connections: "100",
  // Blocks written are mostly new rows: with 1 GB, a steady writer would force a checkpoint every few seconds, and
  // each checkpoint makes every page be logged in full once more.
  max_wal_size: "4GB",
  // Files of the log are written anew by renaming old ones, and these are kept for it. A new one is filled with zeros first,
  // 16 MiB that every commit waits for: 60 ms, several times a second under load.
  min_wal_size: "1GB",
  // The cache is emptied as fast as it is filled. Looked at once a minute, as is the default, its file grew to 1 GB in 50
  // seconds of writing; looked at this often it stays at 0.3 GB, and writing is a sixth faster.
  autovacuum_naptime: "5s",
  // Block contents rarely compress, and trying takes the CPU time of the transaction that waits.
  wal_compression: "off",
};

const MIB = 2 ** 20;

/**
 * Shared buffers for a machine with so many bytes of memory: an eighth, 128 MiB to 4 GiB.
 *
 * A buffer that has to be taken is written out by the writer that needs it, so overwriting blocks at random is a quarter
 * faster where the tables fit. PostgreSQL's manual proposes a quarter of the memory; but the server is a neighbour here.
 */
export function toSharedBuffersMib(memoryBytes: number): number {
  return Math.round(Math.min(4096, Math.max(128, memoryBytes / 8 / MIB)));
}

/** The settings as the argument of `pg_ctl -o`, which a shell splits. */
export function toServerOptions(socketDirectory: string, memoryBytes: number): string {
  // The directory is one item of a list: without its quotes, a space would end the item.
  const settings = {
    ...SETTINGS,
    shared_buffers: `${toSharedBuffersMib(memoryBytes)}MB`,
    unix_socket_directories: `"${socketDirectory}"`,
  };
  return Object.entries(settings).map(([name, value]) => `-c ${quoteForShell(`${name}=${value}`)}`).join(" ");
}

function quoteForShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
