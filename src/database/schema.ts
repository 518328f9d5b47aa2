/**
 * The tables as drizzle sees them: the one place where snake_case columns meet camelCase properties.
 *
 * The migrations are the source; a test compares these definitions with a migrated database, column by column.
 */

import {
  bigint,
  boolean,
  customType,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  smallint,
  text,
  timestamp,
  uuid,
} from "drizzle-orm/pg-core";

/** A whole number that stays below 2^53 in PostgreSQL's bigint. */
const count = (name: string) => bigint(name, { mode: "number" });
const moment = (name: string) => timestamp(name, { withTimezone: true, mode: "date", precision: 6 });
const multirange = customType<{ data: string; driverData: string }>({ dataType: () => "int8multirange" });
const bytea = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => "bytea" });

export const pools = pgTable("pools", {
  poolId: uuid("pool_id").primaryKey(),
  name: text("name").notNull(),
  blockSizeBytes: integer("block_size_bytes").notNull(),
  segmentBlocks: integer("segment_blocks").notNull(),
  cacheBytesMax: count("cache_bytes_max").notNull(),
  createdAt: moment("created_at").notNull(),
});

export const clients = pgTable("clients", {
  clientId: uuid("client_id").primaryKey(),
  name: text("name").notNull(),
  priority: smallint("priority").notNull(),
  scopes: text("scopes").array().notNull(),
  volumes: jsonb("volumes"),
  tokenHash: bytea("token_hash").notNull(),
  createdAt: moment("created_at").notNull(),
  expiresAt: moment("expires_at"),
  lastUsedAt: moment("last_used_at"),
  requestsPerSecondMax: integer("requests_per_second_max"),
  bytesPerSecondMax: count("bytes_per_second_max"),
});

export const poolHeads = pgTable("pool_heads", {
  poolId: uuid("pool_id").primaryKey(),
  sequenceAppended: count("sequence_appended").notNull().default(0),
  bytesAppended: count("bytes_appended").notNull().default(0),
  mapVersion: count("map_version").notNull().default(0),
  timelinesCreated: count("timelines_created").notNull().default(0),
  segmentsCreated: count("segments_created").notNull().default(0),
  cacheMode: text("cache_mode").notNull().default("write-back"),
  entriesThrough: count("entries_through").notNull().default(0),
  bytesThrough: count("bytes_through").notNull().default(0),
});

export const poolLives = pgTable("pool_lives", {
  poolId: uuid("pool_id").primaryKey(),
  life: uuid("life").notNull(),
});

export const poolTails = pgTable("pool_tails", {
  poolId: uuid("pool_id").primaryKey(),
  sequenceFlushed: count("sequence_flushed").notNull().default(0),
  entriesFlushed: count("entries_flushed").notNull().default(0),
  bytesFlushed: count("bytes_flushed").notNull().default(0),
  bytesPerSecond: count("bytes_per_second").notNull().default(0),
  flushedAt: moment("flushed_at"),
});

export const flushPolicies = pgTable("flush_policies", {
  poolId: uuid("pool_id").primaryKey(),
  policy: jsonb("policy").notNull(),
  sequenceAsked: count("sequence_asked").notNull().default(0),
});

export const devices = pgTable("devices", {
  poolId: uuid("pool_id").notNull(),
  deviceId: uuid("device_id").notNull(),
  name: text("name").notNull(),
  blockCount: count("block_count").notNull(),
  firstSegmentId: count("first_segment_id").notNull(),
  segmentCount: count("segment_count").notNull(),
  segmentsTouched: count("segments_touched").notNull().default(0),
  segmentsReturned: count("segments_returned").notNull().default(0),
  createdAt: moment("created_at").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.deviceId] })]);

export const freeSegments = pgTable("free_segments", {
  poolId: uuid("pool_id").notNull(),
  segmentId: count("segment_id").notNull(),
  deviceId: uuid("device_id").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.segmentId] })]);

export const timelines = pgTable("timelines", {
  poolId: uuid("pool_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  openEpoch: count("open_epoch").notNull().default(0),
  parentTimelineId: count("parent_timeline_id"),
  parentEpoch: count("parent_epoch"),
  firstEpoch: count("first_epoch").notNull().default(0),
  volumeId: uuid("volume_id"),
  segmentsMapped: count("segments_mapped").notNull().default(0),
}, (table) => [primaryKey({ columns: [table.poolId, table.timelineId] })]);

export const epochSpace = pgTable("epoch_space", {
  poolId: uuid("pool_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  epoch: count("epoch").notNull(),
  segments: count("segments").notNull(),
  counted: boolean("counted").notNull().default(false),
}, (table) => [primaryKey({ columns: [table.poolId, table.timelineId, table.epoch] })]);

export const snapshotSpace = pgTable("snapshot_space", {
  poolId: uuid("pool_id").notNull(),
  snapshotId: uuid("snapshot_id").notNull(),
  uniqueSegments: count("unique_segments").notNull().default(0),
  rangedSegments: count("ranged_segments").notNull().default(0),
  changed: count("changed").notNull().default(0),
  counted: count("counted").notNull().default(0),
  countedAt: moment("counted_at"),
}, (table) => [primaryKey({ columns: [table.poolId, table.snapshotId] })]);

export const volumes = pgTable("volumes", {
  poolId: uuid("pool_id").notNull(),
  volumeId: uuid("volume_id").notNull(),
  name: text("name").notNull(),
  blockCount: count("block_count").notNull(),
  timelineId: count("timeline_id").notNull(),
  createdAt: moment("created_at").notNull(),
  deletedAt: moment("deleted_at"),
  snapshotsMax: integer("snapshots_max"),
}, (table) => [primaryKey({ columns: [table.poolId, table.volumeId] })]);

export const segmentMap = pgTable("segment_map", {
  poolId: uuid("pool_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  slot: count("slot").notNull(),
  epoch: count("epoch").notNull(),
  segmentId: count("segment_id").notNull(),
  deviceId: uuid("device_id").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.timelineId, table.slot, table.epoch] })]);

export const cache = pgTable("cache", {
  poolId: uuid("pool_id").notNull(),
  sequence: count("sequence").notNull(),
  kind: text("kind", { enum: ["write", "trim", "marker"] }).notNull(),
  clientId: uuid("client_id").notNull(),
  priority: smallint("priority").notNull(),
  volumeId: uuid("volume_id"),
  lba: count("lba"),
  deviceId: uuid("device_id"),
  segmentId: count("segment_id"),
  firstBlock: integer("first_block"),
  blockCount: count("block_count").notNull(),
  sizeBytes: integer("size_bytes").notNull(),
  appendedAt: moment("appended_at").notNull(),
  data: bytea("data"),
  checksums: bytea("checksums"),
}, (table) => [primaryKey({ columns: [table.poolId, table.sequence] })]);

export const blocks = pgTable("blocks", {
  poolId: uuid("pool_id").notNull(),
  deviceId: uuid("device_id").notNull(),
  segmentId: count("segment_id").notNull(),
  blockIndex: integer("block_index").notNull(),
  sequence: count("sequence").notNull(),
  data: bytea("data"),
  checksum: bytea("checksum"),
}, (table) => [
  primaryKey({ columns: [table.poolId, table.deviceId, table.segmentId, table.blockIndex] }),
]);

export const snapshots = pgTable("snapshots", {
  poolId: uuid("pool_id").notNull(),
  snapshotId: uuid("snapshot_id").notNull(),
  name: text("name"),
  description: text("description"),
  status: text("status", { enum: ["pending", "sealed", "cancelled", "failed"] }).notNull(),
  markerSequence: count("marker_sequence").notNull(),
  bytesBefore: count("bytes_before").notNull(),
  auditId: uuid("audit_id").notNull(),
  createdAt: moment("created_at").notNull(),
  sealedAt: moment("sealed_at"),
  heldUntil: moment("held_until"),
  holdReason: text("hold_reason"),
  scheduleId: uuid("schedule_id"),
  digest: bytea("digest"),
  digestedAt: moment("digested_at"),
  checkedAt: moment("checked_at"),
  intact: boolean("intact"),
  entriesThrough: count("entries_through").notNull().default(0),
}, (table) => [primaryKey({ columns: [table.poolId, table.snapshotId] })]);

export const snapshotVolumes = pgTable("snapshot_volumes", {
  poolId: uuid("pool_id").notNull(),
  snapshotId: uuid("snapshot_id").notNull(),
  volumeId: uuid("volume_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  epoch: count("epoch").notNull(),
  volumeBlocks: count("volume_blocks").notNull(),
  covered: multirange("covered").notNull(),
  digest: bytea("digest"),
  fault: text("fault"),
}, (table) => [primaryKey({ columns: [table.poolId, table.snapshotId, table.volumeId] })]);

export const digestions = pgTable("digestions", {
  poolId: uuid("pool_id").notNull(),
  snapshotId: uuid("snapshot_id").notNull(),
  volumeId: uuid("volume_id"),
  position: count("position").notNull().default(0),
  chain: bytea("chain").notNull().default(new Uint8Array(32)),
  workerId: uuid("worker_id"),
  leasedUntil: moment("leased_until"),
  createdAt: moment("created_at").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.snapshotId] })]);

export const audit = pgTable("audit", {
  poolId: uuid("pool_id").notNull(),
  auditId: uuid("audit_id").notNull(),
  at: moment("at").notNull(),
  clientId: uuid("client_id").notNull(),
  clientName: text("client_name").notNull(),
  origin: text("origin").notNull(),
  action: text("action").notNull(),
  targetId: uuid("target_id").notNull(),
  targetName: text("target_name"),
  cdb: bytea("cdb"),
  dataOut: bytea("data_out"),
  scsiStatus: text("scsi_status"),
  phases: jsonb("phases"),
  markerSequence: count("marker_sequence"),
  chainNumber: count("chain_number").notNull(),
  chainHash: bytea("chain_hash").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.auditId] })]);

export const auditCompletions = pgTable("audit_completions", {
  poolId: uuid("pool_id").notNull(),
  auditId: uuid("audit_id").notNull(),
  scsiStatus: text("scsi_status").notNull(),
  phases: jsonb("phases").notNull(),
  chainNumber: count("chain_number").notNull(),
  chainHash: bytea("chain_hash").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.auditId] })]);

export const auditHeads = pgTable("audit_heads", {
  poolId: uuid("pool_id").primaryKey(),
  chainNumber: count("chain_number").notNull().default(0),
  chainHash: bytea("chain_hash").notNull().default(new Uint8Array(32)),
});

export const signingKeys = pgTable("signing_keys", {
  keyName: text("key_name").primaryKey(),
  privateKey: jsonb("private_key").notNull(),
  createdAt: moment("created_at").notNull(),
});

export const idempotencyKeys = pgTable("idempotency_keys", {
  clientId: uuid("client_id").notNull(),
  key: text("key").notNull(),
  fingerprint: bytea("fingerprint").notNull(),
  ownerId: uuid("owner_id").notNull(),
  leaseUntil: moment("lease_until").notNull(),
  createdAt: moment("created_at").notNull(),
  outcome: jsonb("outcome"),
  status: integer("status"),
  contentType: text("content_type"),
  location: text("location"),
  body: text("body"),
}, (table) => [primaryKey({ columns: [table.clientId, table.key] })]);

export const eventHeads = pgTable("event_heads", {
  poolId: uuid("pool_id").primaryKey(),
  eventId: count("event_id").notNull().default(0),
});

export const events = pgTable("events", {
  poolId: uuid("pool_id").notNull(),
  eventId: count("event_id").notNull(),
  type: text("type").notNull(),
  at: moment("at").notNull(),
  snapshotId: uuid("snapshot_id"),
  deviceId: uuid("device_id"),
  volumeId: uuid("volume_id"),
  body: jsonb("body").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.eventId] })]);

export const reclaims = pgTable("reclaims", {
  poolId: uuid("pool_id").notNull(),
  reclaimId: uuid("reclaim_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  epoch: count("epoch").notNull(),
  doneEpoch: count("done_epoch").notNull().default(-1),
  doneSlot: count("done_slot").notNull().default(-1),
  waiting: boolean("waiting").notNull().default(false),
  segmentsReturned: count("segments_returned").notNull().default(0),
  lookedAt: moment("looked_at").notNull(),
  kind: text("kind", { enum: ["reader", "closed", "merge"] }).notNull().default("reader"),
}, (table) => [primaryKey({ columns: [table.poolId, table.reclaimId] })]);

export const labels = pgTable("labels", {
  poolId: uuid("pool_id").notNull(),
  targetId: uuid("target_id").notNull(),
  key: text("key").notNull(),
  value: text("value").notNull(),
  kind: text("kind", { enum: ["volume", "snapshot"] }).notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.targetId, table.key] })]);

export const schedules = pgTable("schedules", {
  poolId: uuid("pool_id").notNull(),
  scheduleId: uuid("schedule_id").notNull(),
  name: text("name").notNull(),
  volumeIds: uuid("volume_ids").array(),
  label: text("label"),
  cron: text("cron"),
  every: text("every"),
  timeZone: text("time_zone").notNull(),
  keep: jsonb("keep"),
  skipUnchanged: boolean("skip_unchanged").notNull(),
  snapshotName: text("snapshot_name").notNull(),
  labels: jsonb("labels").notNull(),
  paused: boolean("paused").notNull(),
  createdAt: moment("created_at").notNull(),
  revision: count("revision").notNull().default(0),
  nextRunAt: moment("next_run_at"),
  lastRunAt: moment("last_run_at"),
  lastSnapshotId: uuid("last_snapshot_id"),
  lastError: text("last_error"),
  retentionsAsked: count("retentions_asked").notNull().default(0),
  retentionsDone: count("retentions_done").notNull().default(0),
}, (table) => [primaryKey({ columns: [table.poolId, table.scheduleId] })]);

export const stagings = pgTable("stagings", {
  poolId: uuid("pool_id").notNull(),
  stagingId: uuid("staging_id").notNull(),
  volumeId: uuid("volume_id").notNull(),
  timelineId: count("timeline_id").notNull(),
  blockCount: count("block_count").notNull(),
  volumeTimelineId: count("volume_timeline_id").notNull(),
  volumeBlocks: count("volume_blocks").notNull(),
  sinceTimelineId: count("since_timeline_id").notNull(),
  sinceEpoch: count("since_epoch").notNull(),
  keptUntil: moment("kept_until"),
  deviceId: uuid("device_id"),
}, (table) => [primaryKey({ columns: [table.poolId, table.stagingId] })]);

export const mirrors = pgTable("mirrors", {
  poolId: uuid("pool_id").notNull(),
  volumeId: uuid("volume_id").notNull(),
  sourcePoolId: uuid("source_pool_id").notNull(),
  sourceVolumeId: uuid("source_volume_id").notNull(),
}, (table) => [primaryKey({ columns: [table.poolId, table.volumeId] })]);

export const scrubs = pgTable("scrubs", {
  poolId: uuid("pool_id").notNull(),
  deviceId: uuid("device_id").notNull(),
  scrubId: uuid("scrub_id").notNull(),
  status: text("status", { enum: ["running", "done", "cancelled"] }).notNull(),
  doneSegment: count("done_segment").notNull().default(-1),
  doneBlock: integer("done_block").notNull().default(-1),
  blocksChecked: count("blocks_checked").notNull().default(0),
  blocksUnchecked: count("blocks_unchecked").notNull().default(0),
  blocksCorrupt: count("blocks_corrupt").notNull().default(0),
  corrupt: jsonb("corrupt").notNull().default([]),
  toldAt: moment("told_at").notNull(),
  startedAt: moment("started_at").notNull(),
  endedAt: moment("ended_at"),
}, (table) => [primaryKey({ columns: [table.poolId, table.deviceId] })]);

export const copies = pgTable("copies", {
  poolId: uuid("pool_id").notNull(),
  copyId: uuid("copy_id").notNull(),
  snapshotId: uuid("snapshot_id").notNull(),
  volumeId: uuid("volume_id").notNull(),
  targetPoolId: uuid("target_pool_id").notNull(),
  targetVolumeId: uuid("target_volume_id").notNull(),
  status: text("status", { enum: ["running", "done", "failed", "cancelled"] }).notNull(),
  phase: text("phase").notNull(),
  position: count("position").notNull().default(0),
  baseId: uuid("base_id"),
  stagingId: uuid("staging_id"),
  bytesCopied: count("bytes_copied").notNull().default(0),
  bytesTotal: count("bytes_total").notNull().default(0),
  sourceChain: bytea("source_chain").notNull(),
  targetChain: bytea("target_chain").notNull(),
  targetSnapshotId: uuid("target_snapshot_id"),
  digest: text("digest"),
  failureCode: text("failure_code"),
  failureDetail: text("failure_detail"),
  clientId: uuid("client_id").notNull(),
  clientName: text("client_name").notNull(),
  priority: smallint("priority").notNull(),
  origin: text("origin").notNull(),
  workerId: uuid("worker_id"),
  leasedUntil: moment("leased_until"),
  toldAt: moment("told_at").notNull(),
  createdAt: moment("created_at").notNull(),
  endedAt: moment("ended_at"),
  deviceId: uuid("device_id"),
}, (table) => [primaryKey({ columns: [table.poolId, table.copyId] })]);
