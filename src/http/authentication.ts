/**
 * Who comes in: `Authorization: Bearer` (RFC 6750), or for a WebSocket from a browser, which can set no header, the
 * subprotocol `snapmark.bearer.<base64url of the token>` beside `snapmark.v1`.
 */

import { createMiddleware } from "hono/factory";
import type { Door, DoorContext, DoorEnv } from "./door.ts";
import { HttpError } from "./errors.ts";

/** The subprotocol that the server speaks. */
export const SUBPROTOCOL = "snapmark.v1";
const TOKEN_SUBPROTOCOL = "snapmark.bearer.";

/** Lets a request pass only with a valid token, and says whose it is. */
export function requireClient(door: Door) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const token = readToken(c.req.raw.headers);
    const client = token === undefined ? undefined : door.authenticate(token);
    if (client === undefined) {
      throw new HttpError("unauthorized", "Cannot let this request in: expected a valid bearer token", {
        headers: { "www-authenticate": 'Bearer realm="snapmark"' },
      });
    }
    c.set("client", client);
    await next();
  });
}

/** The subprotocols that a WebSocket client offers. */
export function offeredSubprotocols(c: DoorContext): string[] {
  return listSubprotocols(c.req.header("sec-websocket-protocol"));
}

function listSubprotocols(header: string | null | undefined): string[] {
  return (header ?? "").split(",").map((protocol) => protocol.trim());
}

/** The token that a request brings; whether it is valid is another question. */
export function readToken(headers: Headers): string | undefined {
  const bearer = /^Bearer ([\x21-\x7e]+)$/i.exec(headers.get("authorization") ?? "");
  if (bearer !== null) return bearer[1];
  const offered = listSubprotocols(headers.get("sec-websocket-protocol")).find((protocol) =>
    protocol.startsWith(TOKEN_SUBPROTOCOL)
  );
  return offered === undefined ? undefined : decodeToken(offered.slice(TOKEN_SUBPROTOCOL.length));
}

function decodeToken(text: string): string | undefined {
  try {
    return new TextDecoder().decode(Uint8Array.fromBase64(text, { alphabet: "base64url" }));
  } catch {
    return undefined;
  }
}
