/**
 * `/events`: what happened, as a WebSocket or, without upgrade, as a page of JSON.
 *
 * A subscriber gets what it missed and then what comes, from its own position on: `after=` resumes without gap or
 * duplicate, across restarts and from any server. A stream is of one pool.
 *
 * A subscriber that does not read is not waited for: as soon as more than the bound stands unread in its socket's buffer
 * and does not go down in time, it is closed with 4008 and may resume later. Events are read from the table as there is
 * room, so a slow subscriber holds no memory but that buffer.
 *
 * A close is a message too: a subscriber that never reads never gets it, and Deno has no way to end its connection
 * (denoland/deno issues 24292 and 27924). It no longer counts as a subscriber, and its socket and buffer linger until its
 * side or the server ends; those that linger are bounded as well, and go on to count among their client's.
 */

import { createRoute, z } from "@hono/zod-openapi";
import { EVENT_TYPES, type EventType, type StorageEvent } from "../storage/event.ts";
import { findClient, offeredSubprotocols, readToken, SUBPROTOCOL } from "./authentication.ts";
import { CopyPhase } from "./copies.ts";
import { requireOrigin } from "./cors.ts";
import { type Door, type DoorApp, type DoorContext, withinOf } from "./door.ts";
import { HttpError } from "./errors.ts";
import {
  Count,
  Digest,
  given,
  Id,
  jsonResponse,
  Labels,
  Moment,
  Name,
  PROBLEM_RESPONSE,
  Reference,
  Sequence,
} from "./schema.ts";
import { CacheMode, FlushPolicy } from "./pool_settings.ts";
import { BlockCounts, CorruptBlock, ScrubEnd } from "./scrubs.ts";
import { Progress, SnapshotDigest } from "./snapshot_body.ts";
import { SnapshotsMax } from "./volumes.ts";

/** Close codes of ours (RFC 6455 leaves 4000 to 4999 to applications). */
export const CLOSE_TOKEN_ENDED = 4001;
export const CLOSE_SLOW = 4008;
const CLOSE_GOING_AWAY = 1001;
const CLOSE_INTERNAL = 1011;
/** How often a full socket is looked at. */
const BACKLOG_POLL_MS = 50;
/** As many sockets may linger as there may be subscribers. */
const SOCKETS_PER_SUBSCRIBER = 2;

const EventId = Count.openapi({ description: "Rises without a gap within the pool, in commit order" });
const envelope = { id: EventId, at: Moment, poolId: Id };

function message<D extends z.ZodType>(name: string, types: EventType[], subject: z.ZodRawShape, data: D) {
  return z.object({ ...envelope, type: z.enum(types), ...subject, data }).openapi(name);
}

/** Of a copy the events are the source's. */
const copied = { snapshotId: Id, volumeId: Id };

function copyData(data: z.ZodRawShape) {
  return z.object({ copyId: Id, ...data });
}

/** The messages that subscribers get. */
export const Event = z.union([
  message("PoolEvent", ["pool.created"], {}, z.object({ name: Name })),
  message(
    "PoolChangedEvent",
    ["pool.changed"],
    {},
    z.object({ name: Name, cacheMode: CacheMode, flushPolicy: FlushPolicy }),
  ),
  message("DeviceEvent", ["device.added"], { deviceId: Id }, z.object({ name: Name, blockCount: Count })),
  message(
    "VolumeEvent",
    ["volume.created", "volume.resized", "volume.reverted", "volume.imported", "volume.deleted"],
    { volumeId: Id },
    z.object({
      name: Name,
      blockCount: Count,
      snapshotId: Id.optional().openapi({
        description: "What it was cloned from, or reverted to, or has what it was given by an import",
      }),
      baseId: Id.optional().openapi({ description: "Of an import: the snapshot it was a difference to" }),
      sourceVolumeId: Id.optional().openapi({ description: "Of a clone: the volume in that snapshot" }),
      sequence: Sequence.optional().openapi({ description: "Of a revert: the last write that it gave up" }),
    }),
  ),
  message(
    "VolumeLabelledEvent",
    ["volume.labelled"],
    { volumeId: Id },
    z.object({ name: Name, labels: Labels }),
  ),
  message(
    "VolumeLimitedEvent",
    ["volume.limited"],
    { volumeId: Id },
    z.object({ name: Name, snapshotsMax: SnapshotsMax }),
  ),
  message(
    "MarkerCommittedEvent",
    ["marker.committed"],
    { snapshotId: Id },
    z.object({
      sequence: Sequence,
      name: Name.optional(),
      volumeCount: Count,
      bytesAhead: Count.openapi({ description: "At most so many, for a flush may have been under way" }),
    }),
  ),
  message(
    "MarkerProgressEvent",
    ["marker.progress"],
    { snapshotId: Id },
    z.object({ sequence: Sequence, ...Progress.shape }),
  ),
  message(
    "SnapshotEndedEvent",
    ["snapshot.sealed", "snapshot.failed"],
    { snapshotId: Id },
    z.object({ sequence: Sequence }),
  ),
  message(
    "SnapshotVerifiedEvent",
    ["snapshot.verified"],
    { snapshotId: Id },
    z.object({
      sequence: Sequence,
      digest: SnapshotDigest.optional(),
      matches: z.boolean().openapi({
        description: "Whether the blocks are what the digest says; they are when it was just counted",
      }),
      faults: z.array(z.object({
        volumeId: Id.optional().openapi({ description: "Absent of the snapshot as a whole" }),
        detail: z.string(),
      })).openapi({ description: "What does not match; the first ones" }),
    }),
  ),
  message(
    "SnapshotGoneEvent",
    ["snapshot.cancelled", "snapshot.deleted"],
    { snapshotId: Id, volumeId: Id.optional().openapi({ description: "Where it covered one volume" }) },
    z.object({ sequence: Sequence }),
  ),
  message(
    "SnapshotHeldEvent",
    ["snapshot.held"],
    { snapshotId: Id },
    z.object({ until: Moment, reason: z.string() }),
  ),
  message(
    "SnapshotLabelledEvent",
    ["snapshot.labelled"],
    { snapshotId: Id },
    z.object({
      labels: Labels.optional().openapi({ description: "All that it has, where that changed" }),
      description: z.string().nullable().optional().openapi({ description: "Where that changed" }),
    }),
  ),
  message("CopyCreatedEvent", ["copy.created"], copied, copyData({ targetPoolId: Id, targetVolumeId: Id })),
  message(
    "CopyProgressEvent",
    ["copy.progress"],
    copied,
    copyData({ phase: CopyPhase, bytesCopied: Count, bytesTotal: Count }),
  ),
  message(
    "CopyDoneEvent",
    ["copy.done"],
    copied,
    copyData({ targetSnapshotId: Id, bytesCopied: Count, digest: Digest }),
  ),
  message("CopyFailedEvent", ["copy.failed"], copied, copyData({ code: z.string(), detail: z.string() })),
  message("CopyCancelledEvent", ["copy.cancelled"], copied, copyData({})),
  message(
    "ScheduleEvent",
    ["schedule.created", "schedule.changed", "schedule.deleted"],
    {},
    z.object({ scheduleId: Id, name: Name }),
  ),
  message(
    "ScheduleRanEvent",
    ["schedule.ran"],
    { snapshotId: Id },
    z.object({ scheduleId: Id, name: Name, snapshotName: Name }),
  ),
  message(
    "ScheduleSkippedEvent",
    ["schedule.skipped"],
    {},
    z.object({
      scheduleId: Id,
      name: Name,
      reason: z.enum(["no-volume", "unchanged"]).openapi({
        description: "There is no volume to cover, or none has changed since the last snapshot",
      }),
    }),
  ),
  message(
    "ScheduleFailedEvent",
    ["schedule.failed"],
    {},
    z.object({ scheduleId: Id, name: Name, message: z.string() }),
  ),
  message("ScrubStartedEvent", ["scrub.started"], { deviceId: Id }, z.object({ scrubId: Id })),
  message(
    "ScrubProgressEvent",
    ["scrub.progress"],
    { deviceId: Id },
    z.object({ scrubId: Id, segmentsDone: Count, segmentsTotal: Count, ...BlockCounts.shape }),
  ),
  message(
    "ScrubCorruptEvent",
    ["scrub.corrupt"],
    { deviceId: Id },
    z.object({
      scrubId: Id,
      blocksCorrupt: Count.openapi({ description: "So far" }),
      corrupt: z.array(CorruptBlock).openapi({ description: "What was found now, of the first hundred" }),
    }),
  ),
  message(
    "ScrubFinishedEvent",
    ["scrub.finished"],
    { deviceId: Id },
    z.object({ scrubId: Id, status: ScrubEnd, ...BlockCounts.shape }),
  ),
  message(
    "ReclaimProgressEvent",
    ["reclaim.progress"],
    {},
    z.object({
      timelineId: Count.openapi({ description: "Where a reader was gone" }),
      segmentsReturned: Count.openapi({ description: "Segments that went back to the free list for it" }),
    }),
  ),
]).openapi("Event");

const query = z.strictObject({
  snapshot: Reference.optional(),
  volume: Reference.optional().openapi({ description: "Its events, and those of snapshots that cover it" }),
  pool: Reference.optional().openapi({
    description: "By default that of the volume or snapshot, or else `main`",
  }),
  type: z.string().max(512).optional().openapi({
    description: `Comma-separated types: ${EVENT_TYPES.join(", ")}`,
    example: "marker.committed,snapshot.sealed",
  }),
  after: z.string().regex(/^\d{1,15}$/, "expected an event id").transform(Number).optional().openapi({
    type: "integer",
    minimum: 0,
    description: "Events behind this id. By default a WebSocket starts now, a page at the beginning",
  }),
  maxResults: z.string().regex(/^\d{1,9}$/, "expected a number").transform(Number).optional().openapi({
    type: "integer",
    minimum: 1,
    description: "Of a page",
  }),
});

const eventsRoute = createRoute({
  method: "get",
  path: "/events",
  operationId: "listEvents",
  summary: "Follow what happens (WebSocket), or read a page of it",
  description:
    "With `Upgrade: websocket`, each message is one Event as JSON text. Browsers authenticate by the " +
    "subprotocols `snapmark.v1` and `snapmark.bearer.<base64url of the token>`. Close codes: 1001 the server stops, " +
    "4001 the token has ended, 4008 the subscriber is too slow; go on with `after=` the last id. A client that is bound to " +
    "volumes names one of them, or a snapshot.",
  tags: ["events"],
  request: { query },
  responses: {
    200: jsonResponse(
      "A page of events",
      z.object({
        events: z.array(Event),
        after: EventId.openapi({
          description:
            "Ask for what comes after this; further than the last event where a filter left some out",
        }),
      }),
    ),
    101: { description: "Switching to WebSocket" },
    default: PROBLEM_RESPONSE,
  },
});

export function registerEvents(app: DoorApp, door: Door): void {
  const { storage, limits } = door;
  // Those that are served; and all sockets that have not ended, those that were cut off included.
  let subscribers = 0;
  const sockets = new Map<WebSocket, string>();

  app.openapi(eventsRoute, async (c) => {
    const { type, after, maxResults = limits.pageItemsDefault, ...input } = c.req.valid("query");
    const stream = await storage.findStream({
      ...given({ ...input, within: withinOf(c) }),
      ...(type === undefined ? {} : { types: toTypes(type) }),
    });
    if (c.req.header("upgrade")?.toLowerCase() !== "websocket") {
      if (maxResults < 1 || maxResults > limits.pageItemsMax) {
        throw new HttpError(
          "invalid-request",
          `Cannot answer ${maxResults} events: expected 1 to ${limits.pageItemsMax}`,
        );
      }
      const events = await storage.listEvents(stream.poolId, stream.filter, after ?? 0, maxResults);
      const seen = events.length === maxResults ? 0 : stream.lastEventId;
      const next = Math.max(after ?? 0, seen, events.at(-1)?.eventId ?? 0);
      return c.json({ events: events.map(toBody) as z.input<typeof Event>[], after: next }, 200);
    }
    if (
      subscribers >= limits.subscribersMax || sockets.size >= SOCKETS_PER_SUBSCRIBER * limits.subscribersMax
    ) {
      throw new HttpError(
        "too-many-subscribers",
        `Cannot take another subscriber: ${subscribers} are there, and ${
          sockets.size - subscribers
        } linger that were cut off`,
      );
    }
    requireOrigin(c, door);
    const { clientId } = c.get("client");
    if ([...sockets.values()].filter((owner) => owner === clientId).length >= limits.clientWebSocketsMax) {
      throw new HttpError(
        "too-many-websockets",
        `Cannot take another WebSocket: expected at most ${limits.clientWebSocketsMax} of a client at a time`,
      );
    }
    const { socket, response } = upgrade(c);
    door.metrics.showWebSockets(subscribers += 1);
    sockets.set(socket, clientId);
    socket.addEventListener("close", () => sockets.delete(socket), { once: true });
    const follow = (signal: AbortSignal) =>
      storage.followEvents(stream.poolId, stream.filter, after ?? stream.lastEventId, signal);
    door.onBackground(
      serveSubscriber(socket, follow, door, {
        requestId: c.get("requestId"),
        token: readToken(c.req.raw.headers) ?? "",
      }).finally(() => {
        door.metrics.showWebSockets(subscribers -= 1);
        if (socket.readyState === WebSocket.CONNECTING) sockets.delete(socket);
      }),
    );
    return response;
  });
}

function upgrade(c: DoorContext): Deno.WebSocketUpgrade {
  const protocol = offeredSubprotocols(c).includes(SUBPROTOCOL) ? { protocol: SUBPROTOCOL } : {};
  try {
    return Deno.upgradeWebSocket(c.req.raw, protocol);
  } catch {
    throw new HttpError("invalid-request", "Cannot upgrade: this is no WebSocket handshake");
  }
}

/** Sends a subscriber its events until either side closes. */
async function serveSubscriber(
  socket: WebSocket,
  follow: (signal: AbortSignal) => AsyncGenerator<StorageEvent[]>,
  door: Door,
  { requestId, token }: { requestId: string; token: string },
): Promise<void> {
  await using watch = watchToken(door, token);
  const closed = new AbortController();
  socket.addEventListener("close", () => closed.abort(), { once: true });
  socket.addEventListener("error", () => closed.abort(), { once: true });
  const ended = AbortSignal.any([closed.signal, watch.ended, door.stopping]);
  try {
    if (!await whenOpen(socket, door, ended)) {
      socket.addEventListener("open", () => socket.close(CLOSE_SLOW, "too late"), { once: true });
      return;
    }
    for await (const events of follow(ended)) {
      for (const event of events) {
        if (ended.aborted) break;
        socket.send(JSON.stringify(toBody(event)));
        if (!await hasRoom(socket, door, ended)) {
          return socket.close(CLOSE_SLOW, "too slow; resume with after=");
        }
      }
    }
    if (watch.ended.aborted) socket.close(CLOSE_TOKEN_ENDED, "the token has ended");
    else if (door.stopping.aborted) socket.close(CLOSE_GOING_AWAY, "the server stops; resume with after=");
  } catch (error) {
    door.onFault(error, requestId);
    if (socket.readyState === WebSocket.OPEN) {
      socket.close(CLOSE_INTERNAL, "the server failed; resume with after=");
    }
  }
}

/** Looks again and again whether a token is still somebody's, whichever process ends it. */
function watchToken(door: Door, token: string): AsyncDisposable & { readonly ended: AbortSignal } {
  const ended = new AbortController();
  let look: Promise<void> | undefined;
  const timer = setInterval(() => {
    look ??= lookAtToken(door, token, ended).finally(() => look = undefined);
  }, door.limits.subscriberTokenMs);
  return {
    ended: ended.signal,
    [Symbol.asyncDispose]: async () => {
      clearInterval(timer);
      await look;
    },
  };
}

/** A look that fails, as one does without the database, says nothing: there will be another, and no event until then. */
async function lookAtToken(door: Door, token: string, ended: AbortController): Promise<void> {
  try {
    if (await findClient(door, token) === undefined) ended.abort();
  } catch {
    // As said above.
  }
}

/** Waits for the handshake's end; false when it fails or takes too long. Deno tells nothing of a client that leaves. */
async function whenOpen(socket: WebSocket, { limits }: Door, ended: AbortSignal): Promise<boolean> {
  if (socket.readyState === WebSocket.CONNECTING) {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, limits.subscriberStalledMs);
    socket.addEventListener("open", () => resolve(), { once: true });
    ended.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
  }
  return socket.readyState === WebSocket.OPEN;
}

/** Waits until the socket's buffer is below its bound; false when that takes too long. */
async function hasRoom(socket: WebSocket, { limits }: Door, ended: AbortSignal): Promise<boolean> {
  const untilMs = performance.now() + limits.subscriberStalledMs;
  while (socket.bufferedAmount > limits.subscriberBacklogBytesMax && !ended.aborted) {
    if (performance.now() >= untilMs) return false;
    await new Promise((resolve) => setTimeout(resolve, BACKLOG_POLL_MS));
  }
  return true;
}

function toTypes(list: string): EventType[] {
  const types = list.split(",").map((type) => type.trim());
  const unknown = types.find((type) => !(EVENT_TYPES as readonly string[]).includes(type));
  if (unknown !== undefined) {
    throw new HttpError("invalid-request", "Cannot filter by type: one of them is unknown", {
      problems: [{ path: "type", message: `expected ${EVENT_TYPES.join(", ")}` }],
    });
  }
  return types as EventType[];
}

function toBody({ eventId, at, body, ...event }: StorageEvent) {
  return { id: eventId, ...event, at: at.toISOString(), data: body };
}
