/**
 * What every part of the HTTP door is given: the storage system, who may come in, and its bounds.
 */

import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { StorageError } from "../errors.ts";
import type { Actor } from "../storage/actor.ts";
import type { KnownClient } from "../storage/client.ts";
import type { KeyClaim } from "../storage/idempotency.ts";
import type { Storage } from "../storage/storage.ts";
import type { ClientLoads, Place } from "./client_load.ts";
import type { Metrics } from "./metrics.ts";
import type { TimeLimits } from "./time_limits.ts";

/** The media type of blocks as they are. */
export const OCTETS = "application/octet-stream";

/** The bounds of the door; their values and reasons stand in `config.ts`. */
export interface HttpLimits {
  readonly jsonBytesMax: number;
  readonly blocksBytesMax: number;
  readonly pageItemsMax: number;
  readonly pageItemsDefault: number;
  readonly answerMsMax: number;
  readonly subscriberBacklogBytesMax: number;
  readonly subscriberStalledMs: number;
  readonly subscriberTokenMs: number;
  readonly subscribersMax: number;
  readonly clientWebSocketsMax: number;
  readonly requestsPerSecondMax: number;
  readonly bytesPerSecondMax: number;
  readonly requestsAtOnceMax: number;
  readonly heldBytesMax: number;
  readonly clientHeldBytesMax: number;
  readonly clientLoadsMax: number;
  readonly receiveMs: number;
  readonly receiveIdleMs: number;
  readonly sendIdleMs: number;
}

/** One line of the request log. Neither bodies nor tokens are in it. */
export interface RequestRecord {
  readonly requestId: string;
  readonly method: string;
  readonly path: string;
  readonly status: number;
  readonly milliseconds: number;
  readonly client?: string;
}

export interface Door {
  readonly storage: Storage;
  readonly metrics: Metrics;
  readonly limits: HttpLimits;
  /** Cache bound of pools that do not choose one. */
  readonly cacheBytesMax: number;
  /** Origins whose pages may use the door from a browser; absent: none but its own. */
  readonly corsOrigins?: readonly string[];
  /** Who comes with the admin token; all others are known to `storage.clients`. */
  readonly authenticate: (token: string) => Client | undefined;
  readonly loads: ClientLoads;
  readonly timeLimits: TimeLimits;
  readonly onRequest: (record: RequestRecord) => void;
  /** Told of faults of the program itself. */
  readonly onFault: (error: unknown, requestId: string) => void;
  /** Told of blocks that are not as they were written, once for each request that met some. */
  readonly onCorrupt: (error: StorageError, requestId: string) => void;
  /** Told of work that outlives its request: the server waits for it when it stops. */
  readonly onBackground: (work: Promise<void>) => void;
  /** Aborted when the server stops: whoever waits or follows gives up. */
  readonly stopping: AbortSignal;
}

/** Who a request comes from, and what that client may do. */
export type Client = KnownClient;

/** Of a request: when its answer has been sent, or can no longer be. */
export type Delivery = Pick<Deno.ServeHandlerInfo, "completed">;

/** What the middleware has found out before a handler runs. */
export interface DoorEnv {
  Bindings: Delivery;
  Variables: { requestId: string; client: Client; place: Place; isSending?: true; claim?: KeyClaim };
}

export type DoorApp = OpenAPIHono<DoorEnv>;
export type DoorContext = Context<DoorEnv>;

/** On whose behalf a request is, by which route it came, and with which key. */
export function toActor(c: DoorContext): Actor {
  const claim = c.get("claim");
  const origin = `http ${c.req.method} ${c.req.path}`;
  return { ...c.get("client"), origin, ...(claim === undefined ? {} : { claim }) };
}

/** The ids of the volumes that the client is bound to; undefined when it is bound to none. */
export function withinOf(c: DoorContext): string[] | undefined {
  return c.get("client").volumes?.map(({ volumeId }) => volumeId);
}

/** Ends when the client goes away or the server stops. */
export function whileConnected(c: DoorContext, { stopping }: Door): AbortSignal {
  return AbortSignal.any([c.req.raw.signal, stopping]);
}
