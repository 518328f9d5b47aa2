/**
 * `/keys`: by which receipts can be checked without the server.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Door, DoorApp } from "./door.ts";
import { jsonResponse, NoQuery, PROBLEM_RESPONSE } from "./schema.ts";

const PublicKey = z.object({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: z.string(),
  kid: z.string().openapi({
    description: "Its thumbprint (RFC 7638): `keyId` of the receipts that it checks",
  }),
}).openapi("PublicKey");

const listRoute = createRoute({
  method: "get",
  path: "/keys",
  operationId: "listKeys",
  summary: "The public keys that check receipts, as a JWK set (RFC 7517)",
  tags: ["audit"],
  request: { query: NoQuery },
  responses: {
    200: jsonResponse("The keys", z.object({ keys: z.array(PublicKey) }).openapi("KeySet")),
    default: PROBLEM_RESPONSE,
  },
});

export function registerKeys(app: DoorApp, { storage }: Door): void {
  app.openapi(listRoute, async (c) => c.json({ keys: await storage.receipts.listKeys() }, 200));
}
