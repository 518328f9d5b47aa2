/**
 * What a client may do: one row for every route behind the token, with the scope that it needs and what becomes of a client that is
 * bound to volumes. A route without a row lets nobody in.
 *
 * A bound client is let in where all that the request names is its own: volumes it is bound to, snapshots that cover nothing else.
 * Whatever else it names is answered alike, whether it exists or not. Lists show it its own. Where a route is of a pool as a whole,
 * or makes something that would not be its own, it is not let in.
 *
 * The scope is judged before the body is read; what the body names, when it has been.
 */

import { createMiddleware } from "hono/factory";
import { matchedRoutes } from "hono/route";
import { StorageError } from "../errors.ts";
import { type Scope, SCOPES } from "../storage/client.ts";
import { beyondReach, type Named } from "../storage/client_reach.ts";
import { NAME_PATTERN } from "../storage/identifier.ts";
import type { Storage } from "../storage/storage.ts";
import type { Client, Door, DoorContext, DoorEnv } from "./door.ts";

/** A route's row. */
export interface Permission {
  /** The scope that it needs; of several, one, and {@linkcode Permission.choose} says which. */
  readonly scopes: readonly Scope[];
  readonly choose?: (body: Body) => Scope;
  /** Whether a bound client is let in: never, where it names only its own, or also where it names nothing. */
  readonly bound: "never" | "naming" | "listing";
  /** What the request is of besides what its path names. */
  readonly names?: (request: { body: Body; query: Body }) => Named;
}

type Body = Readonly<Record<string, unknown>>;

function row(scope: Scope, bound: Permission["bound"], names?: Permission["names"]): Permission {
  return { scopes: [scope], bound, ...(names === undefined ? {} : { names }) };
}

const ADMIN = row("admin", "never");
const READ = row("read", "naming");
const WRITE = row("write", "naming");
const SNAPSHOT = row("snapshot", "naming");

/** One row for every route behind the token: method, and path as the router has it. */
export const PERMISSIONS: Readonly<Record<string, Permission>> = {
  "GET /pools": ADMIN,
  "POST /pools": ADMIN,
  "GET /pools/:pool": ADMIN,
  "PATCH /pools/:pool": ADMIN,
  "GET /pools/:pool/cache": ADMIN,
  "POST /pools/:pool/flush": ADMIN,
  "GET /devices": ADMIN,
  "POST /devices": ADMIN,
  "GET /devices/:device": ADMIN,
  "GET /devices/:device/segments": ADMIN,
  "GET /devices/:device/scrub": ADMIN,
  "POST /devices/:device/scrub": ADMIN,
  "DELETE /devices/:device/scrub": ADMIN,
  "GET /clients": ADMIN,
  "POST /clients": ADMIN,
  "GET /clients/:client": ADMIN,
  "PATCH /clients/:client": ADMIN,
  "DELETE /clients/:client": ADMIN,
  "POST /clients/:client/rotate": ADMIN,
  "GET /audit": ADMIN,
  "GET /audit/verify": ADMIN,
  // A monitor needs no more than to read.
  "GET /metrics": row("read", "never"),
  "GET /audit/:id": ADMIN,
  // Public keys: whoever gets a receipt may check it, whatever else it may do.
  "GET /keys": { scopes: SCOPES, bound: "listing" },

  "GET /volumes": row("read", "listing"),
  // A clone is a way to use a snapshot. It is a new volume, to which no client is bound.
  "POST /volumes": {
    scopes: ["admin", "snapshot"],
    choose: (body) => body.source === undefined ? "admin" : "snapshot",
    bound: "never",
  },
  "GET /volumes/:volume": READ,
  "PATCH /volumes/:volume": ADMIN,
  "DELETE /volumes/:volume": ADMIN,
  "GET /volumes/:volume/segments": READ,
  "GET /volumes/:volume/ranges": READ,
  "GET /volumes/:volume/blocks/:lba": READ,
  "PUT /volumes/:volume/blocks/:lba": WRITE,
  "DELETE /volumes/:volume/blocks/:lba": WRITE,
  "POST /volumes/:volume/writes": WRITE,
  "PUT /volumes/:volume/image": WRITE,
  "POST /volumes/:volume/import": WRITE,
  "POST /volumes/:volume/revert": row(
    "snapshot",
    "naming",
    ({ body }) => ({ snapshots: [body.snapshot].filter(isText) }),
  ),

  "GET /snapshots": row("read", "listing"),
  "POST /snapshots": row("snapshot", "naming", ({ body }) => toCovered(body)),
  "GET /snapshots/:snapshot": READ,
  "PATCH /snapshots/:snapshot": SNAPSHOT,
  "DELETE /snapshots/:snapshot": SNAPSHOT,
  "PUT /snapshots/:snapshot/hold": SNAPSHOT,
  "POST /snapshots/:snapshot/verify": SNAPSHOT,
  "GET /snapshots/:snapshot/blocks/:lba": READ,
  "GET /snapshots/:snapshot/ranges": READ,
  "GET /snapshots/:snapshot/changes": READ,
  "GET /snapshots/:snapshot/image": READ,
  "GET /snapshots/:snapshot/export": READ,

  // Copies and schedules are of pools: what they make is nobody's own.
  "GET /snapshots/:snapshot/copies": row("read", "never"),
  "POST /snapshots/:snapshot/copies": row("snapshot", "never"),
  "GET /copies/:copy": row("read", "never"),
  "DELETE /copies/:copy": row("snapshot", "never"),
  "GET /schedules": row("read", "never"),
  "POST /schedules": row("snapshot", "never"),
  "GET /schedules/:schedule": row("read", "never"),
  "PATCH /schedules/:schedule": row("snapshot", "never"),
  "DELETE /schedules/:schedule": row("snapshot", "never"),
  "POST /schedules/:schedule/run": row("snapshot", "never"),

  // Without one of both, it is the pool's whole stream.
  "GET /events": row("read", "naming", ({ query }) => ({
    volumes: [query.volume].filter(isText),
    snapshots: [query.snapshot].filter(isText),
  })),
};

/** Lets a request pass only when its client has the route's scope. */
export function requireScope() {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const permission = findPermission(c);
    if (permission !== undefined) demandScope(c.get("client"), permission.scopes);
    await next();
  });
}

/** Lets a request pass only when all that it names is within what its client is bound to; its body has been read. */
export function requireOwn({ storage }: Door) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const permission = findPermission(c);
    const client = c.get("client");
    if (permission?.choose !== undefined) demandScope(client, [permission.choose(await readJson(c))]);
    if (permission !== undefined && client.volumes !== undefined) await demandOwn(c, storage, permission);
    await next();
  });
}

/** Demands that what a stream has named, which only its handler reads, is within what the client is bound to. */
export async function requireReach(c: DoorContext, storage: Storage, named: Named): Promise<void> {
  const client = c.get("client");
  if (client.volumes !== undefined) await storage.clients.requireWithin(client, named);
}

/** Tells whether a client may use a volume by a plain read or write, as far as that can be told from its reference alone. */
export function mayPlainly({ scopes, volumes }: Client, scope: Scope, reference: string): boolean {
  return scopes.includes(scope) &&
    (volumes === undefined || volumes.some(({ volumeId }) => volumeId === reference));
}

function demandScope({ scopes: held }: Client, scopes: readonly Scope[]): void {
  if (scopes.some((scope) => held.includes(scope))) return;
  throw new StorageError("forbidden", `Cannot do this: expected a client with scope ${scopes.join(" or ")}`);
}

async function demandOwn(c: DoorContext, storage: Storage, { bound, names }: Permission): Promise<void> {
  if (bound === "never") throw beyondReach();
  const query = c.req.query();
  const named = names?.({ body: await readJson(c), query }) ?? {};
  const path = namePath(c);
  const volumes = [...path.volumes, ...named.volumes ?? []];
  const snapshots = [...path.snapshots, ...named.snapshots ?? []];
  if (bound === "naming" && volumes.length + snapshots.length === 0) throw beyondReach();
  const pool = query.pool ?? named.pool;
  // A word that can be no reference is left to the route, which refuses it.
  await storage.clients.requireWithin(c.get("client"), {
    volumes: [...volumes, query.volume].filter(isReference),
    snapshots: [...snapshots, query.base].filter(isReference),
    ...(isReference(pool) ? { pool } : {}),
  });
}

function namePath(c: DoorContext): { volumes: string[]; snapshots: string[] } {
  const [, resource, encoded] = c.req.path.split("/");
  const named = encoded === undefined ? [] : [decode(encoded)];
  return {
    volumes: resource === "volumes" ? named : [],
    snapshots: resource === "snapshots" ? named : [],
  };
}

/**
 * What a snapshot request covers. In words it names volumes, or else it is of the whole pool; as a command, bound clients have the
 * form that addresses a volume and brings no list, which could name others.
 */
function toCovered({ volumes, ranges, volume, cdb, dataOut, pool }: Body): Named {
  const inPool = isText(pool) ? { pool } : {};
  if (cdb !== undefined) return { ...inPool, volumes: dataOut === undefined ? [volume].filter(isText) : [] };
  const ranged = listOf(ranges).map((range) => (range as { volume?: unknown } | null)?.volume);
  return { ...inPool, volumes: [...listOf(volumes), ...ranged].filter(isText) };
}

/** The route's row; undefined where there is no route, which has an answer of its own. */
function findPermission(c: DoorContext): Permission | undefined {
  const route = matchedRoutes(c).find(({ method }) => method !== "ALL");
  if (route === undefined) return undefined;
  const key = `${route.method} ${route.path}`;
  if (Object.hasOwn(PERMISSIONS, key)) return PERMISSIONS[key];
  throw new Error(`Cannot let anybody in: ${key} has no row in the table of permissions`);
}

/** The body, as far as it is a JSON object; what is not is left to the route, which refuses it. */
async function readJson(c: DoorContext): Promise<Body> {
  if (!(c.req.header("content-type") ?? "").toLowerCase().startsWith("application/json")) return {};
  try {
    const body = await c.req.json();
    return typeof body === "object" && body !== null ? body : {};
  } catch {
    return {};
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

function isReference(value: unknown): value is string {
  return isText(value) && NAME_PATTERN.test(value);
}
