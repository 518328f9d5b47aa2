/**
 * Who comes in: `Authorization: Bearer` (RFC 6750); for tools that know user names and passwords only, such as qemu's HTTP driver,
 * `Basic` with the token as password and any user name (RFC 7617); for a WebSocket from a browser, which can set no header, the
 * subprotocol `snapmark.bearer.<base64url of the token>` beside `snapmark.v1`. Basic is taken and not asked for: a browser that was
 * asked would keep the password, and send it along with whatever other sites have it request.
 */

import { createMiddleware } from "hono/factory";
import { answerInTime } from "./answer_time.ts";
import type { Client, Door, DoorContext, DoorEnv } from "./door.ts";
import { HttpError } from "./errors.ts";

/** The subprotocol that the server speaks. */
export const SUBPROTOCOL = "snapmark.v1";
const TOKEN_SUBPROTOCOL = "snapmark.bearer.";

/** Lets a request pass only with a valid token, and says whose it is. */
export function requireClient(door: Door) {
  return createMiddleware<DoorEnv>(async (c, next) => {
    const token = readToken(c.req.raw.headers);
    const client = token === undefined ? undefined : await answerInTime(door, "GET", findClient(door, token));
    if (client === undefined) {
      throw new HttpError("unauthorized", "Cannot let this request in: expected a valid bearer token", {
        headers: { "www-authenticate": 'Bearer realm="snapmark"' },
      });
    }
    c.set("client", client);
    await next();
  });
}

/** Whose token it is: the admin's, or a client's. */
export async function findClient(door: Door, token: string): Promise<Client | undefined> {
  return recallClient(door, token) ?? await door.storage.clients.authenticate(token);
}

/** Whose token it is, if that can be told at once. */
export function recallClient({ authenticate, storage }: Door, token: string): Client | undefined {
  return authenticate(token) ?? storage.clients.recall(token);
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
  const authorization = headers.get("authorization") ?? "";
  const bearer = /^Bearer ([\x21-\x7e]+)$/i.exec(authorization);
  if (bearer !== null) return bearer[1];
  const basic = /^Basic ([A-Za-z0-9+/]+={0,2})$/i.exec(authorization);
  // Tools that read the password from a file send the end of its line too.
  if (basic !== null) return decode(basic[1], "base64")?.match(/^[^:]*:([\x21-\x7e]+)\s*$/)?.[1];
  const offered = listSubprotocols(headers.get("sec-websocket-protocol")).find((protocol) =>
    protocol.startsWith(TOKEN_SUBPROTOCOL)
  );
  return offered === undefined ? undefined : decode(offered.slice(TOKEN_SUBPROTOCOL.length), "base64url");
}

function decode(text: string, alphabet: "base64" | "base64url"): string | undefined {
  try {
    return new TextDecoder().decode(Uint8Array.fromBase64(text, { alphabet }));
  } catch {
    return undefined;
  }
}
