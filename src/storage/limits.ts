/**
 * The bounds the storage system keeps. Their values, with the reason for each, stand in `config.ts`.
 */

export interface StorageLimits {
  /** Data of one write request, and of one read. */
  readonly requestBytesMax: number;
  /** Writes and trims in one request. */
  readonly requestWritesMax: number;
  /** Blocks of one trim. */
  readonly trimBlocksMax: number;
  /** Data of one append transaction. */
  readonly batchBytesMax: number;
  /** Requests of one append transaction. */
  readonly batchRequestsMax: number;
  /** Data of all requests of one pool that wait for their transaction in this process. */
  readonly pendingBytesMax: number;
  /** The requests themselves. */
  readonly pendingRequestsMax: number;
  /** Reads of live volumes that one statement serves. */
  readonly readGroupMax: number;
  /** Blocks of them, unless it is a single read. */
  readonly readGroupBlocksMax: number;
  /** Slots of one pool's open epochs that this process remembers the segment of. */
  readonly openMapSlotsMax: number;
  /** Data of one flush transaction. */
  readonly flushBatchBytesMax: number;
  /** Entries of one flush transaction. */
  readonly flushBatchEntriesMax: number;
  /** Blocks of one flush transaction, trimmed ones included. */
  readonly flushBatchBlocksMax: number;
  /** How long an idle flusher waits before it looks again. */
  readonly flushPollMs: number;
  /** How long a flusher gathers after a small step before it takes the next; a marker ends that. */
  readonly flushGatherMs: number;
  /** How long a flush policy may let an entry wait, and how long it does that only tells a depth. */
  readonly flushRestMsMin: number;
  readonly flushRestMsMax: number;
  readonly flushAgeMsDefault: number;
  /** Share of a cache's bound from which it is flushed whatever its policy. */
  readonly flushPressureShare: number;
  /** How long an idle reclaimer waits before it looks again. */
  readonly reclaimPollMs: number;
  /** How long what is staged is kept without progress. */
  readonly stagingKeptMs: number;
  /** Copies of one pool's snapshots that are under way. */
  readonly copiesMax: number;
  /** Data of one step of a copy. */
  readonly copyStepBytes: number;
  /** How long a worker has a copy to itself. */
  readonly copyLeaseMs: number;
  /** How long an idle copier waits before it looks again. */
  readonly copyPollMs: number;
  /** Data of one step of a scrub. */
  readonly scrubStepBytes: number;
  /** Least time between two `scrub.progress` events of a device. */
  readonly scrubProgressMs: number;
  /** How long an idle scrubber waits before it looks again. */
  readonly scrubPollMs: number;
  /** Data of one step of a digest. */
  readonly digestStepBytes: number;
  /** How long a worker has a digestion to itself. */
  readonly digestLeaseMs: number;
  /** How long an idle digester waits before it looks again. */
  readonly digestPollMs: number;
  /** How long a flusher waits after a fault. */
  readonly flushRetryMs: number;
  /** Least time between two `marker.progress` events of a pool. */
  readonly progressMs: number;
  /** Longest wait of a request for the flusher, be it for a flush or for a seal. */
  readonly flushWaitMsMax: number;
  /** How long a write is slowed at most, when the cache is full but for it. */
  readonly slowMsMax: number;
  /** How often a waiting request looks again. */
  readonly flushWaitPollMs: number;
  /** Labels of one volume or snapshot. */
  readonly labelsMax: number;
  /** Labels that a list is filtered by. */
  readonly labelSelectorsMax: number;
  /** Schedules of one pool. */
  readonly schedulesMax: number;
  /** Volumes that a schedule names, or that carry its label. */
  readonly scheduleVolumesMax: number;
  /** Least time between two runs of a schedule. */
  readonly scheduleEverySecondsMin: number;
  /** How long an idle scheduler waits at most before it looks again. */
  readonly schedulePollMs: number;
  /** Runs that a scheduler takes in one sweep. */
  readonly scheduleRunsMax: number;
  /** Snapshots that one step of retention removes. */
  readonly retentionStepMax: number;
  /** Names of volumes that this process remembers the place of. */
  readonly rememberedVolumesMax: number;
  /** How long one is remembered. */
  readonly rememberedVolumesMs: number;
  /** Clients that there may be. */
  readonly clientsMax: number;
  /** Volumes that a client is bound to. */
  readonly clientVolumesMax: number;
  /** Clients that this process remembers. */
  readonly rememberedClientsMax: number;
  /** How long one is remembered: how late another process notices that its token has ended. */
  readonly rememberedClientsMs: number;
  /** Least time between two notes that a client was there. */
  readonly clientUsedMs: number;
  /** How long an idempotency key is kept. */
  readonly idempotencyKeptMs: number;
  /** How long an attempt has its key before another takes over. */
  readonly idempotencyLeaseMs: number;
  /** Longest answer that is stored with a key. */
  readonly idempotencyAnswerCharactersMax: number;
  /** Keys whose time is over that a new one removes. */
  readonly idempotencySweepKeys: number;
}
