/**
 * `/clients`: who may come in. A token is shown once, by the answer that makes it.
 */

import { createRoute, z } from "@hono/zod-openapi";
import {
  BYTES_PER_SECOND,
  type ClientRecord,
  type ClientWithToken,
  PRIORITY_MAX,
  PRIORITY_MIN,
  REQUESTS_PER_SECOND,
  SCOPES,
} from "../storage/client.ts";
import { type Door, type DoorApp, toActor } from "./door.ts";
import { HttpError } from "./errors.ts";
import {
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  listOf,
  Moment,
  Name,
  NoQuery,
  pageOf,
  PageQuery,
  PROBLEM_RESPONSE,
  Reference,
  toPageBody,
  toPageRequest,
} from "./schema.ts";

const Scopes = z.array(z.enum(SCOPES)).openapi({
  description:
    "`read`: all but what administers; `write`: blocks, images, imports; `snapshot`: snapshots, clones, " +
    "reverts, schedules, copies; `admin`: pools, devices, volumes, clients, audit. None includes another",
});
const Priority = z.int().min(PRIORITY_MIN).max(PRIORITY_MAX).openapi({
  description: "Entries of a higher priority are flushed earlier",
});

const rates = {
  requestsPerSecondMax: rate(REQUESTS_PER_SECOND, "Requests that it may send in a second").optional(),
  bytesPerSecondMax: rate(BYTES_PER_SECOND, "Bytes of its requests' bodies and of their answers' in a second")
    .optional(),
};

/** Judged by the storage system, as a priority is. */
function rate({ min: minimum, max: maximum }: { min: number; max: number }, what: string) {
  return z.number().openapi({
    type: "integer",
    minimum,
    maximum,
    description: `${what}; absent: as any other client's`,
  });
}

const shape = {
  id: Id,
  name: Name,
  priority: Priority,
  scopes: Scopes,
  volumes: z.array(z.object({ poolId: Id, volumeId: Id })).optional().openapi({
    description: "All that it can get at, with the snapshots that cover nothing else; absent: everything",
  }),
  createdAt: Moment,
  expiresAt: Moment.optional(),
  lastUsedAt: Moment.optional().openapi({ description: "To the minute; absent before the first time" }),
  ...rates,
};
const Client = z.object(shape).openapi("Client");
const WithToken = z.object({
  ...shape,
  token: z.string().openapi({ description: "Shown here and never again" }),
}).openapi("ClientWithToken");

const NewClient = z.strictObject({
  name: Name,
  priority: z.number().default(0).openapi({
    type: "integer",
    minimum: PRIORITY_MIN,
    maximum: PRIORITY_MAX,
    description: "Entries of a higher priority are flushed earlier",
  }),
  scopes: Scopes.min(1).max(SCOPES.length),
  volumes: listOf(Reference).optional().openapi({
    description: "Binds it to them: it gets at nothing else. Not with scope `admin`",
  }),
  expiresAt: z.iso.datetime({ offset: true }).optional().openapi({
    description: "Its token is valid before; by default, until it is rotated or revoked",
  }),
  ...rates,
}).openapi("NewClient");

const ClientChange = z.strictObject({
  requestsPerSecondMax: rates.requestsPerSecondMax.unwrap().nullable().optional(),
  bytesPerSecondMax: rates.bytesPerSecondMax.unwrap().nullable().optional(),
}).openapi("ClientChange", { description: "A JSON merge patch: null is as any other client's" });

const params = z.object({ client: Reference });

const createClientRoute = createRoute({
  method: "post",
  path: "/clients",
  operationId: "createClient",
  summary: "Create a client, and its token, which is shown once",
  description:
    "`Idempotency-Key` is ignored: a stored answer would hold the token. Names are unique, so a request " +
    "that is sent again is refused with 409 `name-taken`; rotate, if the first answer was lost.",
  tags: ["clients"],
  request: { query: NoQuery, ...jsonBody(NewClient) },
  responses: { 201: jsonResponse("The client and its token", WithToken), default: PROBLEM_RESPONSE },
});

const listRoute = createRoute({
  method: "get",
  path: "/clients",
  operationId: "listClients",
  summary: "List the clients",
  tags: ["clients"],
  request: { query: PageQuery },
  responses: { 200: jsonResponse("A page of clients", pageOf("clients", Client)), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/clients/{client}",
  operationId: "getClient",
  summary: "A client",
  tags: ["clients"],
  request: { params, query: NoQuery },
  responses: { 200: jsonResponse("The client", Client), default: PROBLEM_RESPONSE },
});

const changeRoute = createRoute({
  method: "patch",
  path: "/clients/{client}",
  operationId: "changeClient",
  summary: "Change how fast a client may come",
  description: "At once in this process, in others within a second.",
  tags: ["clients"],
  request: { params, query: NoQuery, ...jsonBody(ClientChange) },
  responses: { 200: jsonResponse("The client", Client), default: PROBLEM_RESPONSE },
});

const rotateRoute = createRoute({
  method: "post",
  path: "/clients/{client}/rotate",
  operationId: "rotateClient",
  summary: "Give a client a new token, which is shown once; the old one ends",
  description:
    "At once in this process, in others within a second. WebSockets that came by the old one are closed.",
  tags: ["clients"],
  request: { params, query: NoQuery },
  responses: { 200: jsonResponse("The client and its token", WithToken), default: PROBLEM_RESPONSE },
});

const revokeRoute = createRoute({
  method: "delete",
  path: "/clients/{client}",
  operationId: "revokeClient",
  summary: "Revoke a client: its token ends",
  description:
    "At once in this process, in others within a second; its WebSockets are closed. What it wrote stays.",
  tags: ["clients"],
  request: { params, query: NoQuery },
  responses: { 204: { description: "Revoked" }, default: PROBLEM_RESPONSE },
});

export function registerClients(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(createClientRoute, async (c) => {
    const { expiresAt, ...input } = c.req.valid("json");
    const expiry = expiresAt === undefined ? {} : { expiresAt: new Date(expiresAt) };
    const created = await storage.clients.create(toActor(c), { ...given(input), ...expiry });
    return c.json(toBodyWithToken(created), 201, { location: `/clients/${created.client.clientId}` });
  });

  app.openapi(listRoute, async (c) => {
    const page = await storage.clients.list(toPageRequest(c.req.valid("query"), limits, ID_KEY));
    return c.json(toPageBody("clients", page, toBody), 200);
  });

  app.openapi(
    getRoute,
    async (c) => c.json(toBody(await storage.clients.get(c.req.valid("param").client)), 200),
  );

  app.openapi(changeRoute, async (c) => {
    const change = given(c.req.valid("json"));
    if (Object.keys(change).length === 0) {
      throw new HttpError("invalid-request", "Cannot change nothing: expected something to change");
    }
    const changed = await storage.clients.change(toActor(c), c.req.valid("param").client, change);
    return c.json(toBody(changed), 200);
  });

  app.openapi(rotateRoute, async (c) => {
    const rotated = await storage.clients.rotate(toActor(c), c.req.valid("param").client);
    return c.json(toBodyWithToken(rotated), 200);
  });

  app.openapi(revokeRoute, async (c) => {
    await storage.clients.revoke(toActor(c), c.req.valid("param").client);
    return c.body(null, 204);
  });
}

function toBody(
  { clientId, scopes, volumes, createdAt, expiresAt, lastUsedAt, ...rest }: ClientRecord,
): z.input<typeof Client> {
  return {
    id: clientId,
    ...rest,
    scopes: [...scopes],
    ...(volumes === undefined ? {} : { volumes: [...volumes] }),
    createdAt: createdAt.toISOString(),
    ...(expiresAt === undefined ? {} : { expiresAt: expiresAt.toISOString() }),
    ...(lastUsedAt === undefined ? {} : { lastUsedAt: lastUsedAt.toISOString() }),
  };
}

function toBodyWithToken({ client, token }: ClientWithToken): z.input<typeof WithToken> {
  return { ...toBody(client), token };
}
