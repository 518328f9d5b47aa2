/**
 * The configuration: the only reader of the environment, and the place of every limit with its unit and its reason.
 */

import { z } from "zod";
import type { StorageLimits } from "./storage/limits.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** The bounds of the storage system. */
export const STORAGE_LIMITS: StorageLimits = {
  // One request is held in memory whole, and is part of one transaction: large enough to stream an image, small enough
  // that a hundred of them fit.
  requestBytesMax: 4 * MIB,
  // As many 4 KiB blocks as the data bound allows.
  requestWritesMax: 1024,
  // 256 MiB of 4 KiB blocks are 4,096 slots, looked up and mapped under the pool's lock in tens of milliseconds.
  trimBlocksMax: 65_536,
  // Two of the largest requests. Larger batches gain nothing (COPY is at its rate) and delay a marker longer.
  batchBytesMax: 8 * MIB,
  batchRequestsMax: 1024,
  // What may wait while one batch commits: at 100 MB/s, half a second of writes.
  pendingBytesMax: 64 * MIB,
  pendingRequestsMax: 8192,
  // Enough to share what a statement costs; more would only make the first of them wait for the last.
  readGroupMax: 64,
  readGroupBlocksMax: 256,
  // 16 GiB of 64 KiB segments; about 100 bytes each.
  openMapSlotsMax: 262_144,
  // About 100 ms of flushing: how long a marker at most waits behind one step.
  flushBatchBytesMax: 16 * MIB,
  flushBatchEntriesMax: 4096,
  // A trim has no bytes and a row for every block. The largest entry, a segment of 512-byte blocks, has as many.
  flushBatchBlocksMax: 8192,
  // Writes by another process wake nobody; this is how late they are noticed.
  flushPollMs: 100,
  // Ten steps a second: a step then costs each entry little, and a pool is dirty for a tenth of a second.
  flushGatherMs: 100,
  // The flusher looks ten times a second: what is shorter is at once.
  flushRestMsMin: 100,
  // Whoever shuts down, or waits for a flush, then waits for what ten minutes have left in half a cache at most.
  flushRestMsMax: 600_000,
  // Long enough for blocks to be written over, short enough that a pool at rest is soon clean.
  flushAgeMsDefault: 60_000,
  // Writes are slowed from half of the bound on (`UNSLOWED_SHARE`): the flusher has the last fifth of that for a start.
  flushPressureShare: 0.4,
  // What another process deletes, or what had to wait for the flusher, is looked at again so late.
  reclaimPollMs: 1_000,
  // A slow client's MiB takes that long at 2 kB/s; what a killed process has staged takes space for so long.
  stagingKeptMs: 600_000,
  // Each shares the other pool's queue with its clients, and holds its source and space there.
  copiesMax: 16,
  // A step is read in some 200 ms, and is what is done again after a kill.
  copyStepBytes: 16 * MIB,
  // Far above a step, which has no wait in it; a killed worker's copies stand still for so long.
  copyLeaseMs: 60_000,
  // What another process was asked to copy is noticed so late.
  copyPollMs: 1_000,
  // A few milliseconds of this process's time, which its requests wait for.
  scrubStepBytes: 1 * MIB,
  // A pass takes hours, and each is a row.
  scrubProgressMs: 10_000,
  // A pass that another process was asked for is noticed so late.
  scrubPollMs: 1_000,
  // A step is read in some 100 ms, and is what is done again after a kill.
  digestStepBytes: 8 * MIB,
  // Far above a step; what a killed worker was reading stands still for so long.
  digestLeaseMs: 60_000,
  // What was sealed is looked at so late; nobody waits for it.
  digestPollMs: 1_000,
  flushRetryMs: 1_000,
  // A person follows four steps a second; more would be rows for nobody.
  progressMs: 250,
  // Shorter than the time-outs of common HTTP clients and proxies (60 s).
  flushWaitMsMax: 30_000,
  flushWaitPollMs: 50,
  // 64 connections with a write of 4 KiB each then append 1 MiB a second, far below what any flusher moves.
  slowMsMax: 250,
  // Room for what several tools put there; a list shows all of them.
  labelsMax: 64,
  // Each is one more look-up for every thing that a page looks at.
  labelSelectorsMax: 16,
  // One for each of many volumes; their runs may all be due at midnight, and are markers one after the other.
  schedulesMax: 1_000,
  // One parameter list holds three times as many.
  scheduleVolumesMax: 1_024,
  // Each run is a marker, an epoch and a handful of rows: what is wanted oftener is a copy, not a snapshot.
  scheduleEverySecondsMin: 10,
  // A schedule that another process has made is noticed so late.
  schedulePollMs: 1_000,
  // Between two sweeps it sees that it is to stop, and what retention is due.
  scheduleRunsMax: 64,
  // Each takes the pool's lock for itself, for a moment.
  retentionStepMax: 32,
  rememberedVolumesMax: 10_000,
  // Another process may give a name away, or to a second pool; a look-up a second for each name is nothing.
  rememberedVolumesMs: 1_000,
  // One for each machine or program that comes, and room for what nobody has tidied up.
  clientsMax: 10_000,
  // As many as a schedule names.
  clientVolumesMax: 1_024,
  // Those that are there at the same time; about 300 bytes each, and 50 for each volume.
  rememberedClientsMax: 1_000,
  // A look-up a second for each is nothing; so late another process notices that a token has ended.
  rememberedClientsMs: 1_000,
  // It tells whether a token is still in use, which is asked in days.
  clientUsedMs: 60_000,
  // A day, as others keep theirs: longer than any client or queue goes on trying.
  idempotencyKeptMs: 24 * 60 * 60 * 1_000,
  // Longer than the longest wait of a request that lives (30 s, for a seal); a client of one that died waits no longer.
  idempotencyLeaseMs: 35_000,
  // A snapshot of some 300 volumes. A longer answer is made again from what stands there.
  idempotencyAnswerCharactersMax: 64 * KIB,
  // More than one, so that keys go faster than they come; few, for a request waits for it.
  idempotencySweepKeys: 10,
};

/** The bounds of the HTTP door. */
export const HTTP_LIMITS = {
  // The data bound in base64 (4/3) with its JSON around it.
  jsonBytesMax: 6 * MIB,
  // Items of one page of a list.
  pageItemsMax: 1_000,
  pageItemsDefault: 100,
  // What one subscriber may leave unread in the socket's buffer before it is cut off.
  subscriberBacklogBytesMax: 1 * MIB,
  // How long a subscriber may leave anything unread, or its handshake unfinished.
  subscriberStalledMs: 10_000,
  // How often a subscriber's token is looked at: with how long it is remembered, so late a revoked one is cut off.
  subscriberTokenMs: 250,
  // Subscribers of one process; each costs a query per event of its pool.
  subscribersMax: 256,
  // Longer than the longest wait that is asked for (30 s, for a seal or a flush), shorter than the time-outs of common HTTP clients
  // and proxies (60 s): who asks while the database hangs has an answer of ours.
  answerMsMax: 40_000,
  // Of one client, those that were cut off and linger included: it takes four to keep others out.
  clientWebSocketsMax: 64,
  // Of each client that has no limit of its own. Three times what two cores answer, so it is met only by who sends faster than he
  // is answered.
  requestsPerSecondMax: 50_000,
  // Of requests' bodies and answers' bodies together: likewise, some three times what memory, network and disk give.
  bytesPerSecondMax: 1 * GIB,
  // Of one client. Far more than make a difference (64 connections fill two cores), and an eighth of what a pool lets wait.
  requestsAtOnceMax: 1_024,
  // Bodies of one client that are received, worked on or sent: as much as one pool lets wait.
  clientHeldBytesMax: 64 * MIB,
  // Of all clients: four that use all of it. JSON takes three times its size for a moment.
  heldBytesMax: 256 * MIB,
  // One for each client that there may be, and the admin token; about 300 bytes each.
  clientLoadsMax: 10_001,
  // A body of 4 MiB at 70 kB/s; who is slower sends less in one request.
  receiveMs: 60_000,
  // An upload of any length may take as long as it likes, as long as it goes on.
  receiveIdleMs: 30_000,
  // Twice as long: a client may have to write what it has got before it reads on.
  sendIdleMs: 60_000,
  // How long a request in flight may go on once the server is told to stop.
  drainMs: 5_000,
} as const;

/** What the first start creates. */
export const FIRST_POOL = {
  name: "main",
  blockSizeBytes: 4 * KIB,
  segmentBlocks: 16,
} as const;

/** A running Snapmark's configuration. */
export interface Config {
  readonly host: string;
  readonly port: number;
  /** Absent: in plain. */
  readonly tls?: { readonly certificateFile: string; readonly keyFile: string };
  readonly dataDir: string;
  /** Absent: read from, or made in, the data directory. */
  readonly adminToken?: string;
  /** Absent: the bundled PostgreSQL in the data directory. */
  readonly databaseUrl?: string;
  readonly logLevel: "debug" | "info" | "warning" | "error";
  /** Origins whose pages may use the door from a browser; none unless they are named. */
  readonly corsOrigins: readonly string[];
  /** Size of the first pool's first device. */
  readonly deviceBytes: number;
  /** Cache bound of pools that do not choose one. */
  readonly cacheBytesMax: number;
}

const bytes = (fallback: number) => z.coerce.number().int().min(MIB).max(2 ** 50).default(fallback);

/** Addresses that nobody else's machine can reach. */
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1)$/;

/** Each is looked for at every request that names its origin. */
const CORS_ORIGINS_MAX = 32;

function isOrigin(text: string): boolean {
  return /^https?:\/\/[a-z0-9.:[\]-]+$/.test(text) && URL.canParse(text) && new URL(text).origin === text;
}

const ENVIRONMENT = z.object({
  SNAPMARK_HOST: z.string().min(1).max(253).default("127.0.0.1"),
  SNAPMARK_PORT: z.coerce.number().int().min(0).max(65_535).default(8080),
  SNAPMARK_TLS_CERT: z.string().min(1).optional(),
  SNAPMARK_TLS_KEY: z.string().min(1).optional(),
  SNAPMARK_INSECURE: z.enum(["0", "1"]).default("0"),
  SNAPMARK_DATA_DIR: z.string().min(1).default("./data"),
  SNAPMARK_ADMIN_TOKEN: z.string().regex(
    /^[\x21-\x7e]{16,256}$/,
    "expected 16 to 256 visible ASCII characters",
  )
    .optional(),
  SNAPMARK_LOG: z.enum(["debug", "info", "warning", "error"]).default("info"),
  SNAPMARK_CORS_ORIGINS: z.string().transform((list) => list.split(",").map((origin) => origin.trim()))
    .refine(
      (origins) => origins.length <= CORS_ORIGINS_MAX && origins.every(isOrigin),
      `expected up to ${CORS_ORIGINS_MAX} origins, as browsers spell them, with commas between: https://app.example`,
    ).optional(),
  SNAPMARK_DEVICE_BYTES: bytes(64 * GIB),
  SNAPMARK_CACHE_BYTES: bytes(1 * GIB),
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, "expected a URL that starts with postgres://")
    .optional(),
}).superRefine((given, context) => {
  const refuse = (name: string, message: string) =>
    context.addIssue({ code: "custom", path: [name], message });
  const { SNAPMARK_HOST: host, SNAPMARK_TLS_CERT: cert, SNAPMARK_TLS_KEY: key } = given;
  if ((cert === undefined) !== (key === undefined)) {
    refuse("SNAPMARK_TLS_CERT", "expected SNAPMARK_TLS_KEY with it, or neither");
  }
  if (LOOPBACK.test(host) || cert !== undefined || given.SNAPMARK_INSECURE === "1") return;
  refuse(
    "SNAPMARK_HOST",
    "expected a loopback address, or SNAPMARK_TLS_CERT and SNAPMARK_TLS_KEY; tokens and data would go in plain. " +
      "SNAPMARK_INSECURE=1 allows it",
  );
});

/** The environment variables that are read: what a task has to permit. */
export const VARIABLES = Object.keys(ENVIRONMENT.shape);

/**
 * Reads the configuration from environment variables; an empty one counts as absent.
 *
 * @throws {Error} that names every problem at once, and never a value: it could be a secret.
 */
export function readConfig(get: (name: string) => string | undefined = (name) => Deno.env.get(name)): Config {
  const given = Object.fromEntries(VARIABLES.map((name) => [name, get(name) || undefined]));
  const result = ENVIRONMENT.safeParse(given);
  if (!result.success) {
    const problems = result.error.issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`);
    throw new Error(
      `Cannot start: the environment has ${problems.length} problem(s)\n${problems.join("\n")}`,
    );
  }
  const { data } = result;
  return {
    host: data.SNAPMARK_HOST,
    port: data.SNAPMARK_PORT,
    ...(data.SNAPMARK_TLS_CERT === undefined || data.SNAPMARK_TLS_KEY === undefined
      ? {}
      : { tls: { certificateFile: data.SNAPMARK_TLS_CERT, keyFile: data.SNAPMARK_TLS_KEY } }),
    dataDir: data.SNAPMARK_DATA_DIR,
    logLevel: data.SNAPMARK_LOG,
    corsOrigins: data.SNAPMARK_CORS_ORIGINS ?? [],
    deviceBytes: data.SNAPMARK_DEVICE_BYTES,
    cacheBytesMax: data.SNAPMARK_CACHE_BYTES,
    ...(data.SNAPMARK_ADMIN_TOKEN === undefined ? {} : { adminToken: data.SNAPMARK_ADMIN_TOKEN }),
    ...(data.DATABASE_URL === undefined ? {} : { databaseUrl: data.DATABASE_URL }),
  };
}
