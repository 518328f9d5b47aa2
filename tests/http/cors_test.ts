/** Pages of other origins: none unless configured, then those alone, on both lanes and by WebSockets. */

import { assertEquals } from "@std/assert";
import { readConfig } from "../../src/config.ts";
import { createTestDoor, createTestVolume, DOOR_TOKEN, type TestDoor } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { shakeHands } from "../support/websocket.ts";
import { assertProblem, UNAUTHORIZED } from "./problem.ts";

const PAGE = "https://app.example";
const OTHERS = ["https://other.example", "http://app.example", "https://app.example:444", "null", `${PAGE}/`];
const PREFLIGHT = {
  "access-control-request-method": "PUT",
  "access-control-request-headers": "authorization,content-type",
};

let off: TestDoor;
let on: TestDoor;
Deno.test.beforeAll(async () => {
  off = await createTestDoor();
  on = await createTestDoor({ corsOrigins: [PAGE, "https://second.example"] });
  for (const door of [off, on]) await createTestVolume(door, "v");
});
Deno.test.afterAll(async () => {
  for (const door of [off, on]) await door[Symbol.asyncDispose]();
});

function corsHeaders(headers: Headers): string[] {
  return [...headers.keys()].filter((name) => name.startsWith("access-control-"));
}

/** A request of each kind that a page may send. */
const requests = (door: TestDoor, origin: string) => {
  const headers = { origin };
  const octets = fill(1, 1, 512);
  return [
    door.call("GET", "/volumes", { headers }),
    door.call("GET", "/volumes/none", { headers }),
    door.call("GET", "/volumes/v/blocks/0", { headers }),
    door.call("PUT", "/volumes/v/blocks/0", { headers, octets }),
    door.call("PUT", "/volumes/v/blocks/999", { headers, octets }),
    door.call("GET", "/volumes", { headers, token: null }),
    door.call("GET", "/nothing", { headers }),
    door.call("GET", "/health/live", { headers, token: null }),
    door.call("GET", "/openapi.yaml", { headers, token: null }),
  ];
};

Deno.test("no answer has a CORS header unless origins are configured, and a preflight is a request like any", async () => {
  for (const { headers } of await Promise.all(requests(off, PAGE))) {
    assertEquals([corsHeaders(headers), headers.get("vary")?.includes("rigin")], [
      [],
      headers.get("vary") === null ? undefined : false,
    ]);
  }
  const headers = { origin: PAGE, ...PREFLIGHT };
  const answer = await off.call("OPTIONS", "/volumes/v/blocks/0", { headers, token: null });
  assertProblem(answer, UNAUTHORIZED);
  assertEquals(corsHeaders(answer.headers), []);
});

Deno.test("every answer to a configured origin may be read by its page, refusals too, and by both lanes", async () => {
  for (const { status, headers } of await Promise.all(requests(on, PAGE))) {
    assertEquals([status, headers.get("access-control-allow-origin")], [status, PAGE]);
    assertEquals(headers.get("access-control-allow-credentials"), null);
    const exposed = headers.get("access-control-expose-headers")?.toLowerCase().split(",");
    for (
      const name of [
        "etag",
        "content-digest",
        "retry-after",
        "x-request-id",
        "idempotent-replayed",
        "location",
      ]
    ) {
      assertEquals([name, exposed?.includes(name)], [name, true]);
    }
    assertEquals(headers.get("vary")?.toLowerCase().includes("origin"), true);
  }
});

Deno.test("what a page sends is done and answered as to anybody", async () => {
  const headers = { origin: PAGE };
  const octets = fill(7, 2, 512);
  assertEquals((await on.call("PUT", "/volumes/v/blocks/8", { headers, octets })).status, 200);
  assertEquals((await on.call("GET", "/volumes/v/blocks/8?count=2", { headers })).body, octets);
});

Deno.test("a preflight of a configured origin is answered without a token", async () => {
  const headers = { origin: PAGE, ...PREFLIGHT };
  const answer = await on.call("OPTIONS", "/volumes/v/blocks/0", { headers, token: null });
  assertEquals([answer.status, answer.headers.get("access-control-allow-origin")], [204, PAGE]);
  const listed = (name: string) => answer.headers.get(name)?.toLowerCase().split(/, */) ?? [];
  for (const method of ["get", "put", "post", "patch", "delete"]) {
    assertEquals([method, listed("access-control-allow-methods").includes(method)], [method, true]);
  }
  for (const name of ["authorization", "content-type", "idempotency-key", "range", "content-digest"]) {
    assertEquals([name, listed("access-control-allow-headers").includes(name)], [name, true]);
  }
});

for (const origin of OTHERS) {
  Deno.test(`the origin ${origin} is not one that is configured`, async () => {
    for (const { headers } of await Promise.all(requests(on, origin))) assertEquals(corsHeaders(headers), []);
    const headers = { origin, ...PREFLIGHT };
    const answer = await on.call("OPTIONS", "/volumes/v/blocks/0", { headers, token: null });
    assertProblem(answer, UNAUTHORIZED);
    assertEquals(corsHeaders(answer.headers), []);
  });
}

// WebSockets

async function handshakeOf(door: TestDoor, origin: string | undefined, host?: string) {
  using handshake = await shakeHands(door, "", {
    authorization: `Bearer ${DOOR_TOKEN}`,
    ...(origin === undefined ? {} : { origin }),
    ...(host === undefined ? {} : { host }),
  });
  return { body: undefined, ...handshake };
}

Deno.test("a WebSocket of a page is taken from the server's own pages and from configured origins", async () => {
  assertEquals((await handshakeOf(off, undefined)).status, 101);
  // The host that the handshakes of these tests name.
  assertEquals((await handshakeOf(off, "http://snapmark")).status, 101);
  assertEquals((await handshakeOf(off, "https://snapmark")).status, 101);
  assertEquals((await handshakeOf(on, PAGE)).status, 101);
  const refusal = { status: 403, code: "origin-not-allowed" };
  assertProblem(await handshakeOf(off, PAGE), refusal);
  assertProblem(await handshakeOf(off, "http://snapmark:81"), refusal);
  for (const origin of OTHERS) assertProblem(await handshakeOf(on, origin), refusal);
});

// Configuration

const origins = (list: string) =>
  readConfig((name) => name === "SNAPMARK_CORS_ORIGINS" ? list : undefined).corsOrigins;

Deno.test("SNAPMARK_CORS_ORIGINS takes exact origins with commas between, and no other", () => {
  assertEquals(origins(""), []);
  assertEquals(origins("https://a.example, http://localhost:5173"), [
    "https://a.example",
    "http://localhost:5173",
  ]);
  for (
    const wrong of [
      "*",
      "https://a.example/",
      "https://a.example/x",
      "a.example",
      "https://*.example",
      "null",
      "https://A.example",
      "https://a.example,",
      "ftp://a.example",
    ]
  ) {
    let message = "";
    try {
      origins(wrong);
    } catch (error) {
      ({ message } = error as Error);
    }
    assertEquals([wrong, message.includes("SNAPMARK_CORS_ORIGINS: expected")], [wrong, true]);
  }
});
