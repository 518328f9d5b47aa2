/**
 * A client: who comes to the front doors, in which order its writes are flushed, and what it may do.
 *
 * Invariants:
 * - A token is shown once, in the answer that makes it, and stored nowhere; its hash is (`client_token.ts`).
 * - Scopes are a closed list, and none includes another. Who administers can make clients, and so has all of them in effect: that
 *   is why `admin` cannot be bound to volumes.
 * - Clients belong to no pool, and so do their audit records.
 */

import { asc, count, eq, gt } from "drizzle-orm";
import { type Connection, type Database, transact, type Transaction } from "../database/client.ts";
import { isUniqueViolation } from "../database/connection_error.ts";
import { clients } from "../database/schema.ts";
import { StorageError } from "../errors.ts";
import { type Actor, SYSTEM } from "./actor.ts";
import { appendAudit, type AuditAction, NO_POOL } from "./audit.ts";
import { createClientToken } from "./client_token.ts";
import { createId, isId, requireName, requireOne } from "./identifier.ts";
import type { StorageLimits } from "./limits.ts";
import { type Page, type PageRequest, toPage } from "./page.ts";

/** What a client may do: see `http/permission.ts` for what each route needs. */
export const SCOPES = ["read", "write", "snapshot", "admin"] as const;

export type Scope = typeof SCOPES[number];

/** The least and the highest priority; 0 is the admin token's. */
export const PRIORITY_MIN = -100;
export const PRIORITY_MAX = 100;

/** How fast a client may be allowed to come: from hardly at all to more than any process answers. */
export const REQUESTS_PER_SECOND = { min: 1, max: 1_000_000 } as const;
/** From one block of the usual size on. */
export const BYTES_PER_SECOND = { min: 4_096, max: 2 ** 40 } as const;

/** Names that the audit gives to others. */
const RESERVED_NAMES = [SYSTEM.clientName, "admin"];

/** A volume that a client is bound to. */
export interface BoundVolume {
  readonly poolId: string;
  readonly volumeId: string;
}

/** How fast a client may come, where it has limits of its own; the front doors keep them. */
export interface ClientRates {
  readonly requestsPerSecondMax?: number;
  /** Of requests' bodies and answers' together. */
  readonly bytesPerSecondMax?: number;
}

/** A client as a request needs it. */
export interface KnownClient extends Pick<Actor, "clientId" | "clientName" | "priority">, ClientRates {
  readonly scopes: readonly Scope[];
  /** All that it can get at; absent: everything. */
  readonly volumes?: readonly BoundVolume[];
}

/** A client as it is administered. */
export interface ClientRecord extends ClientRates {
  readonly clientId: string;
  readonly name: string;
  readonly priority: number;
  readonly scopes: readonly Scope[];
  readonly volumes?: readonly BoundVolume[];
  readonly createdAt: Date;
  readonly expiresAt?: Date;
  /** To the minute. */
  readonly lastUsedAt?: Date;
}

/** A new client. */
export interface NewClient extends Pick<ClientRecord, "name" | "priority" | "scopes">, ClientRates {
  readonly volumes?: readonly BoundVolume[];
  readonly expiresAt?: Date;
}

/** What changes of a client; null: what holds for all again. */
export interface ClientChange {
  readonly requestsPerSecondMax?: number | null;
  readonly bytesPerSecondMax?: number | null;
}

/** A client with the token that it comes by from now on. */
export interface ClientWithToken {
  readonly client: ClientRecord;
  readonly token: string;
}

/** What there is to judge a token by. */
export interface ClientCredential {
  readonly client: KnownClient;
  readonly tokenHash: Uint8Array;
  readonly expiresAt?: Date;
  readonly lastUsedAt?: Date;
}

// Statements

/** Counts the clients; until the transaction ends, nobody else creates one. */
async function countClientsLocked(tx: Transaction): Promise<number> {
  await tx.$client`lock table clients in share row exclusive mode`;
  const [row] = await tx.select({ clients: count() }).from(clients);
  return row.clients;
}

/** The credential of the client of that id, if there is one. */
export async function findCredential(
  connection: Connection,
  clientId: string,
): Promise<ClientCredential | undefined> {
  const [row] = await connection.select().from(clients).where(eq(clients.clientId, clientId));
  if (row === undefined) return undefined;
  const { name, priority, scopes, volumes, expiresAt, lastUsedAt } = toClient(row);
  return {
    client: {
      clientId,
      clientName: name,
      priority,
      scopes,
      ...(volumes === undefined ? {} : { volumes }),
      ...toRates(row),
    },
    tokenHash: row.tokenHash,
    ...(expiresAt === undefined ? {} : { expiresAt }),
    ...(lastUsedAt === undefined ? {} : { lastUsedAt }),
  };
}

/** Notes that a client was there, unless that was noted after `before`. */
export async function noteUse(
  connection: Connection,
  clientId: string,
  at: Date,
  before: Date,
): Promise<void> {
  await connection.$client`
    update clients set last_used_at = ${at.toISOString()}
    where client_id = ${clientId} and (last_used_at is null or last_used_at <= ${before.toISOString()})`;
}

// Verbs

/**
 * Creates a client and its token.
 *
 * @throws {StorageError} `name-taken`; `invalid-argument` for settings that are none.
 */
export async function createClient(
  database: Database,
  actor: Actor,
  input: NewClient,
  limits: StorageLimits,
  at: Date,
): Promise<ClientWithToken> {
  requireSettings(input, limits, at);
  const clientId = createId();
  const { token, tokenHash } = createClientToken(clientId);
  const { name, priority, volumes, expiresAt, requestsPerSecondMax, bytesPerSecondMax } = input;
  const scopes = SCOPES.filter((scope) => input.scopes.includes(scope));
  try {
    return await transact(database, async (tx) => {
      if (await countClientsLocked(tx) >= limits.clientsMax) {
        throw new StorageError(
          "invalid-argument",
          `Cannot create client ${name}: expected at most ${limits.clientsMax} clients`,
        );
      }
      const [row] = await tx.insert(clients).values({
        clientId,
        name,
        priority,
        scopes,
        volumes: volumes ?? null,
        tokenHash,
        createdAt: at,
        expiresAt: expiresAt ?? null,
        requestsPerSecondMax: requestsPerSecondMax ?? null,
        bytesPerSecondMax: bytesPerSecondMax ?? null,
      }).returning();
      await appendAudit(tx, actor, toAudit({ clientId, name }, "client.create", at));
      return { client: toClient(row), token };
    });
  } catch (error) {
    if (!isUniqueViolation(error, "clients_name")) throw error;
    throw nameTaken(name);
  }
}

/** @throws {StorageError} `client-not-found`. */
export async function getClient(connection: Connection, reference: string): Promise<ClientRecord> {
  const rows = await connection.select().from(clients).where(match(reference));
  return toClient(requireOne(rows, "client-not-found", reference));
}

/** The clients, in order of creation. */
export async function listClients(connection: Connection, page: PageRequest): Promise<Page<ClientRecord>> {
  const rows = await connection.select().from(clients)
    .where(page.after === undefined ? undefined : gt(clients.clientId, page.after))
    .orderBy(asc(clients.clientId)).limit(page.itemsMax + 1);
  return toPage(rows, page, (row) => row.clientId, toClient);
}

/** Changes a client's limits. @throws {StorageError} `client-not-found`; `invalid-argument` for limits that are none. */
export async function changeClient(
  database: Database,
  actor: Actor,
  reference: string,
  change: ClientChange,
  at: Date,
): Promise<ClientRecord> {
  requireRates(`change client ${reference}`, change);
  return await transact(database, async (tx) => {
    const rows = await tx.update(clients).set(change).where(match(reference)).returning();
    const client = toClient(requireOne(rows, "client-not-found", reference));
    await appendAudit(tx, actor, toAudit(client, "client.change", at));
    return client;
  });
}

/** Gives a client a new token; the old one ends. @throws {StorageError} `client-not-found`. */
export async function rotateClient(
  database: Database,
  actor: Actor,
  reference: string,
  at: Date,
): Promise<ClientWithToken> {
  return await transact(database, async (tx) => {
    const { clientId } = await getClient(tx, reference);
    const { token, tokenHash } = createClientToken(clientId);
    const rows = await tx.update(clients).set({ tokenHash }).where(eq(clients.clientId, clientId))
      .returning();
    const client = toClient(requireOne(rows, "client-not-found", reference));
    await appendAudit(tx, actor, toAudit(client, "client.rotate", at));
    return { client, token };
  });
}

/** Removes a client; its token ends. Answers its id. @throws {StorageError} `client-not-found`. */
export async function revokeClient(
  database: Database,
  actor: Actor,
  reference: string,
  at: Date,
): Promise<string> {
  return await transact(database, async (tx) => {
    const rows = await tx.delete(clients).where(match(reference)).returning();
    const client = toClient(requireOne(rows, "client-not-found", reference));
    await appendAudit(tx, actor, toAudit(client, "client.revoke", at));
    return client.clientId;
  });
}

function match(reference: string) {
  return isId(reference) ? eq(clients.clientId, reference) : eq(clients.name, reference);
}

function requireSettings(input: NewClient, limits: StorageLimits, at: Date): void {
  const { name, priority, scopes, volumes, expiresAt } = input;
  requireName(name);
  if (RESERVED_NAMES.includes(name)) throw nameTaken(name);
  const refuse = (why: string): never => {
    throw new StorageError("invalid-argument", `Cannot create client ${name}: ${why}`);
  };
  if (!Number.isInteger(priority) || priority < PRIORITY_MIN || priority > PRIORITY_MAX) {
    refuse(`expected a priority of ${PRIORITY_MIN} to ${PRIORITY_MAX}, found ${priority}`);
  }
  if (scopes.length === 0) refuse("expected at least one scope");
  if (expiresAt !== undefined && expiresAt <= at) refuse("expected an expiry in the future");
  requireRates(`create client ${name}`, input);
  if (volumes === undefined) return;
  if (scopes.includes("admin")) refuse("expected no volumes, for scope admin is for all of them");
  if (volumes.length > limits.clientVolumesMax) {
    refuse(`expected at most ${limits.clientVolumesMax} volumes, found ${volumes.length}`);
  }
}

function requireRates(
  action: string,
  { requestsPerSecondMax: requests, bytesPerSecondMax: bytes }: ClientChange,
): void {
  const require = (what: string, { min, max }: { min: number; max: number }, rate?: number | null) => {
    if (rate === undefined || rate === null || (Number.isInteger(rate) && rate >= min && rate <= max)) return;
    throw new StorageError(
      "invalid-argument",
      `Cannot ${action}: expected ${min} to ${max} ${what} a second, found ${rate}`,
    );
  };
  require("requests", REQUESTS_PER_SECOND, requests);
  require("bytes", BYTES_PER_SECOND, bytes);
}

function nameTaken(name: string): StorageError {
  return new StorageError("name-taken", `Cannot create client ${name}: there is one of that name`);
}

function toAudit({ clientId, name }: Pick<ClientRecord, "clientId" | "name">, action: AuditAction, at: Date) {
  return { poolId: NO_POOL, at, action, targetId: clientId, targetName: name };
}

function toClient(row: typeof clients.$inferSelect): ClientRecord {
  const { clientId, name, priority, createdAt } = row;
  return {
    clientId,
    name,
    priority,
    scopes: row.scopes as Scope[],
    ...(row.volumes === null ? {} : { volumes: row.volumes as BoundVolume[] }),
    createdAt,
    ...(row.expiresAt === null ? {} : { expiresAt: row.expiresAt }),
    ...(row.lastUsedAt === null ? {} : { lastUsedAt: row.lastUsedAt }),
    ...toRates(row),
  };
}

function toRates(row: typeof clients.$inferSelect): ClientRates {
  const { requestsPerSecondMax, bytesPerSecondMax } = row;
  return {
    ...(requestsPerSecondMax === null ? {} : { requestsPerSecondMax }),
    ...(bytesPerSecondMax === null ? {} : { bytesPerSecondMax }),
  };
}
