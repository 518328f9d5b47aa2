/**
 * Pages of other origins, in browsers (Fetch, "CORS protocol"). None may use the door unless its origin is configured: then a browser
 * lets it send what this door takes, with a token that the page knows, and read what is answered. There are no cookies here, so
 * nothing goes along that the page does not know.
 *
 * A preflight of a configured origin is answered without a token, for a browser sends none with it. Any other origin is answered like
 * a client that is no browser, without a header that would let its page read the answer. Browsers leave WebSockets out of
 * all that and send the page's origin for the server to judge (RFC 6455, 10.2): so one of a page that is neither configured nor
 * our own is refused, although it would need a token too.
 */

import { cors } from "hono/cors";
import { createMiddleware } from "hono/factory";
import type { Door, DoorContext, DoorEnv } from "./door.ts";
import { HttpError } from "./errors.ts";

/** How long a browser may remember what it was told before it asked. */
const PREFLIGHT_SECONDS = 600;

const ALLOWED_METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];
const ALLOWED_HEADERS = [
  "Authorization",
  "Content-Digest",
  "Content-Range",
  "Content-Type",
  "Idempotency-Key",
  "If-None-Match",
  "If-Range",
  "Range",
  "Want-Content-Digest",
];
/** What a page may read besides what every page may. */
const EXPOSED_HEADERS = [
  "Accept-Ranges",
  "Allow",
  "Content-Digest",
  "Content-Disposition",
  "Content-Range",
  "ETag",
  "Idempotent-Replayed",
  "Location",
  "Retry-After",
  "WWW-Authenticate",
  "X-Request-Id",
];

/** Lets the pages of configured origins in. */
export function allowOrigins({ corsOrigins = [] }: Door) {
  const allow = cors({
    origin: [...corsOrigins],
    allowMethods: ALLOWED_METHODS,
    allowHeaders: ALLOWED_HEADERS,
    exposeHeaders: EXPOSED_HEADERS,
    maxAge: PREFLIGHT_SECONDS,
  });
  return createMiddleware<DoorEnv>(async (c, next) => {
    const origin = c.req.header("origin");
    const isListed = origin !== undefined && corsOrigins.includes(origin);
    // An upgrade's answer is the platform's, and takes no headers more.
    if (isListed && c.req.header("upgrade") === undefined) return await allow(c, next);
    await next();
  });
}

/**
 * Demands that a WebSocket is of no page, of one of our own, or of one whose origin is configured.
 *
 * @throws {HttpError} `origin-not-allowed`.
 */
export function requireOrigin(c: DoorContext, { corsOrigins = [] }: Door): void {
  const origin = c.req.header("origin");
  if (origin === undefined || corsOrigins.includes(origin)) return;
  // By host alone: a proxy may have taken the TLS off.
  if (URL.canParse(origin) && new URL(origin).host === c.req.header("host")) return;
  throw new HttpError(
    "origin-not-allowed",
    "Cannot take this WebSocket: expected a page of this server, or of an origin in SNAPMARK_CORS_ORIGINS",
  );
}
