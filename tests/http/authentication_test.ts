/** Who comes in, and what everyone is told on the way. */

import { assertEquals, assertMatch } from "@std/assert";
import { createTestDoor, DOOR_TOKEN, type TestDoor } from "../support/door.ts";
import { assertNothingStored, assertProblem, UNAUTHORIZED } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const subprotocol = (token: string) =>
  `snapmark.bearer.${new TextEncoder().encode(token).toBase64({ alphabet: "base64url", omitPadding: true })}`;

const CLOSED: [method: string, path: string][] = [
  ["GET", "/pools"],
  ["POST", "/pools"],
  ["GET", "/pools/main"],
  ["GET", "/pools/main/cache"],
  ["POST", "/pools/main/flush"],
  ["GET", "/devices"],
  ["POST", "/devices"],
  ["GET", "/devices/main-1"],
  ["GET", "/devices/main-1/segments"],
  ["POST", "/devices/main-1/scrub"],
  ["GET", "/volumes"],
  ["POST", "/volumes"],
  ["GET", "/volumes/v"],
  ["PATCH", "/volumes/v"],
  ["DELETE", "/volumes/v"],
  ["GET", "/volumes/v/segments"],
  ["PUT", "/volumes/v/blocks/0"],
  ["GET", "/volumes/v/blocks/0"],
  ["DELETE", "/volumes/v/blocks/0"],
  ["POST", "/volumes/v/writes"],
  ["GET", "/snapshots"],
  ["POST", "/snapshots"],
  ["GET", "/snapshots/s"],
  ["GET", "/snapshots/s/blocks/0"],
  ["GET", "/clients"],
  ["POST", "/clients"],
  ["GET", "/clients/c"],
  ["PATCH", "/clients/c"],
  ["DELETE", "/clients/c"],
  ["POST", "/clients/c/rotate"],
  ["GET", "/audit"],
  ["GET", "/audit/1"],
  ["GET", "/events"],
  // What does not exist is nobody's business either.
  ["GET", "/"],
  ["GET", "/nothing"],
  ["DELETE", "/pools"],
  ["OPTIONS", "/volumes"],
];

for (const [method, path] of CLOSED) {
  Deno.test(`${method} ${path} is refused without a token, with 401`, async () => {
    assertProblem(await door.call(method, path, { token: null }), UNAUTHORIZED);
  });
}

for (
  const authorization of [
    "",
    "Bearer",
    "Bearer ",
    `Basic ${btoa(DOOR_TOKEN)}`,
    `Basic ${btoa(`${DOOR_TOKEN}:`)}`,
    `Basic ${btoa(`admin:${DOOR_TOKEN}x`)}`,
    `Basic ${btoa(`admin:x:${DOOR_TOKEN}`)}`,
    `Basic admin:${DOOR_TOKEN}`,
    `Basic ====`,
    DOOR_TOKEN,
    `Bearer ${DOOR_TOKEN}x`,
    `Bearer ${DOOR_TOKEN.slice(0, -1)}`,
    `Bearer ${DOOR_TOKEN.toUpperCase()}`,
    `Bearer ${DOOR_TOKEN} ${DOOR_TOKEN}`,
    `Bearer ${DOOR_TOKEN}, Bearer x`,
    `Bearer "${DOOR_TOKEN}"`,
    `Bearer ${"x".repeat(5_000)}`,
  ]
) {
  Deno.test(`Authorization: ${authorization.slice(0, 60)} is refused with 401`, async () => {
    await assertNothingStored(door, async () => {
      const headers = { authorization };
      const answer = await door.call("POST", "/volumes", {
        token: null,
        headers,
        json: { name: "v", blockCount: 1 },
      });
      assertProblem(answer, UNAUTHORIZED);
    });
  });
}

for (
  const offered of ["snapmark.v1", "snapmark.bearer.", "snapmark.bearer.%%", subprotocol("wrong-token-01234")]
) {
  Deno.test(`Sec-WebSocket-Protocol: ${offered} is refused with 401`, async () => {
    const headers = { "sec-websocket-protocol": offered };
    assertProblem(await door.call("GET", "/events", { token: null, headers }), UNAUTHORIZED);
  });
}

Deno.test("a token in the query or a cookie is refused with 401", async () => {
  const query = await door.call("GET", `/pools?token=${DOOR_TOKEN}&access_token=${DOOR_TOKEN}`, {
    token: null,
  });
  assertProblem(query, UNAUTHORIZED);
  const headers = { cookie: `token=${DOOR_TOKEN}` };
  assertProblem(await door.call("GET", "/pools", { token: null, headers }), UNAUTHORIZED);
});

Deno.test("the right token passes as the password of any user", async () => {
  for (const login of [`:${DOOR_TOKEN}`, `admin:${DOOR_TOKEN}`, `who:${DOOR_TOKEN}\n`]) {
    const headers = { authorization: `Basic ${btoa(login)}` };
    assertEquals((await door.call("GET", "/pools", { token: null, headers })).status, 200);
  }
});

Deno.test("the right token passes, whatever the case of its scheme, and as a subprotocol", async () => {
  for (const scheme of ["Bearer", "bearer", "BEARER"]) {
    const headers = { authorization: `${scheme} ${DOOR_TOKEN}` };
    assertEquals((await door.call("GET", "/pools", { token: null, headers })).status, 200);
  }
  const headers = { "sec-websocket-protocol": `snapmark.v1, ${subprotocol(DOOR_TOKEN)}` };
  assertEquals((await door.call("GET", "/events", { token: null, headers })).status, 200);
});

Deno.test("every answer carries its request's id and the security headers", async () => {
  const paths = ["/pools", "/pools/nowhere", "/nothing", "/health/live", "/docs", "/volumes/v/blocks/x"];
  const answers = await Promise.all(paths.map((path) => door.call("GET", path)));
  const ids = new Set(answers.map(({ headers }) => headers.get("x-request-id")));
  assertEquals(ids.size, paths.length);
  for (const { headers } of answers) {
    assertMatch(headers.get("x-request-id") ?? "", /^[0-9a-f-]{36}$/);
    assertEquals(headers.get("cache-control"), "no-store");
    assertEquals(headers.get("referrer-policy"), "no-referrer");
    assertEquals(headers.get("x-content-type-options"), "nosniff");
    assertEquals(headers.get("x-frame-options"), "DENY");
  }
});

Deno.test("the log has one record a request, with its client and neither token nor body nor query", async () => {
  const count = door.requests.length;
  const named = { json: { name: "a-secret-name", blockCount: 0 } };
  const refused = await door.call("PATCH", "/volumes/v?pool=a-secret-pool", named);
  const stranger = await door.call("GET", "/pools", { token: "stranger-0123456789" });
  const records = door.requests.slice(count);
  assertEquals(
    records.map(({ milliseconds: _, ...rest }) => rest),
    [
      {
        requestId: refused.body.requestId,
        method: "PATCH",
        path: "/volumes/v",
        status: 400,
        client: "admin",
      },
      { requestId: stranger.body.requestId, method: "GET", path: "/pools", status: 401 },
    ],
  );
  for (const { milliseconds } of records) assertEquals(milliseconds >= 0 && milliseconds < 60_000, true);
});
