/** `openapi.yaml`: it is up to date, it has every route, and what it documents is what is answered. */

import { assert, assertEquals } from "@std/assert";
import { HTTP_LIMITS, STORAGE_LIMITS } from "../../src/config.ts";
import { createApp } from "../../src/http/app.ts";
import { ClientLoads } from "../../src/http/client_load.ts";
import { Metrics } from "../../src/http/metrics.ts";
import { TimeLimits } from "../../src/http/time_limits.ts";
import { createTestDoor, createTestPool, createTestVolume, type TestDoor, until } from "../support/door.ts";
import { fill } from "../support/history.ts";
import { subscribe } from "../support/websocket.ts";
import { createValidator, document, operations, pointerTo, text } from "./document.ts";

const ROUTES = [
  "DELETE /clients/{client}",
  "DELETE /copies/{copy}",
  "DELETE /devices/{device}/scrub",
  "DELETE /schedules/{schedule}",
  "DELETE /snapshots/{snapshot}",
  "DELETE /volumes/{volume}",
  "DELETE /volumes/{volume}/blocks/{lba}",
  "GET /audit",
  "GET /audit/verify",
  "GET /audit/{id}",
  "GET /clients",
  "GET /clients/{client}",
  "GET /copies/{copy}",
  "GET /devices",
  "GET /devices/{device}",
  "GET /devices/{device}/scrub",
  "GET /devices/{device}/segments",
  "GET /events",
  "GET /health/live",
  "GET /health/ready",
  "GET /keys",
  "GET /metrics",
  "GET /pools",
  "GET /pools/{pool}",
  "GET /pools/{pool}/cache",
  "GET /schedules",
  "GET /schedules/{schedule}",
  "GET /snapshots",
  "GET /snapshots/{snapshot}",
  "GET /snapshots/{snapshot}/blocks/{lba}",
  "GET /snapshots/{snapshot}/changes",
  "GET /snapshots/{snapshot}/copies",
  "GET /snapshots/{snapshot}/export",
  "GET /snapshots/{snapshot}/image",
  "GET /snapshots/{snapshot}/ranges",
  "GET /volumes",
  "GET /volumes/{volume}",
  "GET /volumes/{volume}/blocks/{lba}",
  "GET /volumes/{volume}/ranges",
  "GET /volumes/{volume}/segments",
  "PATCH /clients/{client}",
  "PATCH /pools/{pool}",
  "PATCH /schedules/{schedule}",
  "PATCH /snapshots/{snapshot}",
  "PATCH /volumes/{volume}",
  "POST /clients",
  "POST /clients/{client}/rotate",
  "POST /devices",
  "POST /devices/{device}/scrub",
  "POST /pools",
  "POST /pools/{pool}/flush",
  "POST /schedules",
  "POST /schedules/{schedule}/run",
  "POST /snapshots",
  "POST /snapshots/{snapshot}/copies",
  "POST /snapshots/{snapshot}/verify",
  "POST /volumes",
  "POST /volumes/{volume}/import",
  "POST /volumes/{volume}/revert",
  "POST /volumes/{volume}/writes",
  "PUT /snapshots/{snapshot}/hold",
  "PUT /volumes/{volume}/blocks/{lba}",
  "PUT /volumes/{volume}/image",
];
/** Routes about the document rather than in it. */
const UNDOCUMENTED = /^GET \/(openapi\.(json|yaml)|docs(\/.*)?)$/;

Deno.test("openapi.yaml is what the server describes", async () => {
  await using door = await createTestDoor();
  assertEquals((await door.call("GET", "/openapi.yaml")).body, text);
});

Deno.test("openapi.yaml has every route of the app and no other", async () => {
  await using door = await createTestDoor();
  const limits = { ...HTTP_LIMITS, blocksBytesMax: STORAGE_LIMITS.requestBytesMax };
  const app = createApp({
    storage: door.system.storage,
    limits,
    loads: new ClientLoads(limits, () => 0),
    timeLimits: new TimeLimits(() => 0),
    metrics: new Metrics(),
    cacheBytesMax: 0,
    authenticate: () => undefined,
    onBackground: () => {},
    onRequest: () => {},
    onFault: () => {},
    onCorrupt: () => {},
    stopping: AbortSignal.abort(),
  });
  const served = app.routes.filter(({ method }) => method !== "ALL")
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, "{$1}")}`)
    .filter((route) => !UNDOCUMENTED.test(route));
  assertEquals([...new Set(served)].toSorted(), ROUTES);
  assertEquals(operations.map(([route]) => route).toSorted(), ROUTES);
});

Deno.test("openapi.yaml gives every operation an id of its own, a summary, a known tag and a problem document", () => {
  const tags = document.tags.map(({ name }: { name: string }) => name);
  assertEquals(new Set(operations.map(([, { operationId }]) => operationId)).size, ROUTES.length);
  for (const [route, { operationId, summary, tags: [tag], responses }] of operations) {
    assert(/^[a-z][A-Za-z]+$/.test(operationId), route);
    assert(summary.length > 5, route);
    assert(tags.includes(tag), route);
    if (route.startsWith("GET /health")) continue;
    assertEquals(Object.keys(responses.default.content), ["application/problem+json"], route);
  }
});

Deno.test("openapi.yaml demands the token everywhere but at the health checks", () => {
  assertEquals(document.security, [{ bearer: [] }, { basic: [] }]);
  assertEquals(document.components.securitySchemes.bearer, { type: "http", scheme: "bearer" });
  assertEquals(document.components.securitySchemes.basic.scheme, "basic");
  for (const [route, { security }] of operations) {
    assertEquals(security, route.startsWith("GET /health") ? [] : undefined, route);
  }
});

Deno.test("openapi.yaml gives the idempotency key to every POST with a JSON body but writes and clients, the run of a schedule and the verification of a snapshot", () => {
  const keyed = operations.filter(([, { parameters = [] }]) =>
    parameters.some(({ $ref }: { $ref?: string }) => $ref === "#/components/parameters/IdempotencyKey")
  ).map(([route]) => route);
  const creating = operations.filter(([route, { requestBody }]) =>
    /\/(run|verify)$/.test(route) && route.startsWith("POST") ||
    route.startsWith("POST") && requestBody?.content["application/json"] !== undefined &&
      !route.endsWith("/writes") && route !== "POST /clients"
  ).map(([route]) => route);
  assertEquals(keyed, creating);
  assertEquals(keyed.length >= 5, true);
  assertEquals(document.components.parameters.IdempotencyKey.in, "header");
});

// What is answered

Deno.test("every route answers what openapi.yaml documents, and nothing else", async () => {
  await using door = await createTestDoor({ flusher: true });
  const validate = createValidator();
  const validated = new Set<string>();
  const check = async (route: string, path: string, ...options: Parameters<TestDoor["call"]>[2][]) => {
    const [method] = route.split(" ");
    const answer = await door.call(method, path, ...options);
    validated.add(route);
    if (answer.status === 204) return answer.body;
    const value = answer.body instanceof Uint8Array ? "octets" : answer.body;
    assertEquals(validate(pointerTo(route, answer), value), [], `${route} ${answer.status}`);
    return answer.body;
  };
  await check("POST /pools", "/pools", { json: { name: "p", blockSizeBytes: 512, segmentBlocks: 4 } });
  await check("POST /devices", "/devices", { json: { name: "d", pool: "p", blockCount: 40 } });
  const volume = await check("POST /volumes", "/volumes", { json: { name: "v", pool: "p", blockCount: 8 } });
  const policy = { kind: "threshold", dirtyBytes: 4_096 };
  await check("PATCH /pools/{pool}", "/pools/p", { json: { flushPolicy: policy } });
  await check("PATCH /volumes/{volume}", "/volumes/v", { json: { blockCount: 16, labels: { a: "b" } } });
  await check("PUT /volumes/{volume}/blocks/{lba}", "/volumes/v/blocks/0", { octets: fill(1, 8, 512) });
  await check("PUT /volumes/{volume}/image", "/volumes/v/image", { octets: fill(1, 2, 512) });
  await check("POST /volumes/{volume}/writes", "/volumes/v/writes", {
    json: { writes: [{ lba: 0, trim: 1 }] },
  });
  await check("DELETE /volumes/{volume}/blocks/{lba}", "/volumes/v/blocks/7");
  const words = { volumes: ["v"], name: "s", description: "d" };
  const snapshot = await check("POST /snapshots", "/snapshots?wait=sealed", { json: words });
  const change = { labels: { a: "b" }, description: null };
  await check("PATCH /snapshots/{snapshot}", "/snapshots/s", { json: change });
  await check("POST /snapshots", "/snapshots", { json: { cdb: "c1010000000000000400", volume: "v" } });
  await check("POST /snapshots", "/snapshots", { json: { cdb: "00" } });
  await check("POST /pools/{pool}/flush", "/pools/p/flush");
  for (const suffix of ["", "?maxResults=1"]) {
    await check("GET /pools", `/pools${suffix}`);
    await check("GET /pools/{pool}/cache", `/pools/p/cache${suffix}`);
    await check("GET /devices", `/devices${suffix}`);
    await check("GET /devices/{device}/segments", `/devices/d/segments${suffix}`);
    await check("GET /volumes", `/volumes${suffix}`);
    await check("GET /volumes/{volume}/segments", `/volumes/v/segments${suffix}`);
    await check("GET /snapshots", `/snapshots${suffix}`);
    await check("GET /snapshots", `/snapshots${suffix || "?"}&label=a&label=a=b`);
    await check("GET /volumes/{volume}/ranges", `/volumes/v/ranges${suffix}`);
    await check("GET /snapshots/{snapshot}/ranges", `/snapshots/s/ranges${suffix}`);
    await check("GET /snapshots/{snapshot}/changes", `/snapshots/s/changes${suffix || "?"}&base=s`);
    await check("GET /audit", `/audit${suffix}`);
    await check("GET /audit/verify", `/audit/verify${suffix}`);
    await check("GET /events", `/events${suffix}`);
  }
  await check("GET /events", "/events?pool=p");
  await check("GET /pools/{pool}", "/pools/p");
  await check("GET /devices/{device}", "/devices/d");
  await check("GET /volumes/{volume}", `/volumes/${volume.id}`);
  await check("GET /snapshots/{snapshot}", "/snapshots/s");
  await check("GET /keys", "/keys");
  await check("GET /audit/{id}", `/audit/${snapshot.auditId}`);
  for (const accept of ["application/json", "application/octet-stream"]) {
    await check("GET /volumes/{volume}/blocks/{lba}", "/volumes/v/blocks/0?count=2", { headers: { accept } });
    await check("GET /snapshots/{snapshot}/blocks/{lba}", "/snapshots/s/blocks/0", { headers: { accept } });
    await check("GET /snapshots/{snapshot}/image", "/snapshots/s/image");
    await check("GET /snapshots/{snapshot}/image", "/snapshots/s/image", { headers: { range: "bytes=1-2" } });
  }
  const asked = await check("POST /snapshots/{snapshot}/verify", "/snapshots/s/verify");
  assertEquals(asked.verification.running, true);
  const verified = () => check("GET /snapshots/{snapshot}", "/snapshots/s");
  await until(async () => (await verified()).digest !== undefined);
  await check("GET /events", "/events?pool=p&type=snapshot.verified");
  await check("GET /audit/verify", "/audit/verify?pool=p");
  const exported = await check("GET /snapshots/{snapshot}/export", "/snapshots/s/export");
  await check("POST /volumes", "/volumes", { json: { name: "i", pool: "p", blockCount: 1 } });
  await check("POST /volumes/{volume}/import", "/volumes/i/import?snapshot=i", { octets: exported });
  await check("GET /events", "/events?pool=p&type=volume.imported");
  await check("POST /pools", "/pools", { json: { name: "q", blockSizeBytes: 512, segmentBlocks: 4 } });
  await check("POST /devices", "/devices", { json: { name: "q1", pool: "q", blockCount: 40 } });
  const copying = await check("POST /snapshots/{snapshot}/copies", "/snapshots/s/copies", {
    json: { pool: "q" },
  });
  const copied = () => check("GET /copies/{copy}", `/copies/${copying.id}`);
  await until(async () => (await copied()).status === "done");
  await check("DELETE /copies/{copy}", `/copies/${copying.id}`);
  await check("GET /snapshots/{snapshot}/copies", "/snapshots/s/copies?pool=p");
  await check("POST /pools", "/pools", { json: { name: "r", blockSizeBytes: 512, segmentBlocks: 4 } });
  const failing = await check("POST /snapshots/{snapshot}/copies", "/snapshots/s/copies?pool=p", {
    json: { pool: "r" },
  });
  const failed = () => check("GET /copies/{copy}", `/copies/${failing.id}`);
  await until(async () => (await failed()).status === "failed");
  await check("GET /events", "/events?pool=p&type=copy.created,copy.progress,copy.done,copy.failed");
  await check("POST /devices/{device}/scrub", "/devices/d/scrub?pool=p");
  const scrubbed = () => check("GET /devices/{device}/scrub", "/devices/d/scrub");
  await until(async () => (await scrubbed()).status === "done");
  await check("DELETE /devices/{device}/scrub", "/devices/d/scrub");
  await check("GET /events", "/events?pool=p&type=scrub.started,scrub.finished");
  await check("GET /metrics", "/metrics");
  await check("GET /health/live", "/health/live");
  await check("GET /health/ready", "/health/ready");
  await check("POST /volumes", "/volumes", { json: { name: "c", source: { snapshot: "s" } } });
  await check("POST /volumes/{volume}/revert", "/volumes/v/revert", { json: { snapshot: "s" } });
  await check("PUT /snapshots/{snapshot}/hold", "/snapshots/s/hold", {
    json: { until: "2999-01-01T00:00:00Z" },
  });
  await check("POST /schedules", "/schedules", {
    json: { name: "nightly", volumes: ["v"], cron: "30 2 * * *", timeZone: "Europe/Berlin" },
  });
  await check("POST /schedules", "/schedules", {
    json: {
      name: "hourly",
      pool: "p",
      label: "env=prod",
      every: "PT1H",
      keep: { last: 2 },
      labels: { a: "b" },
    },
  });
  await check("PATCH /schedules/{schedule}", "/schedules/hourly", {
    json: { keep: { last: null, for: "P1D" }, paused: true, labels: { a: null } },
  });
  await check("POST /schedules/{schedule}/run", "/schedules/nightly/run");
  await check("POST /schedules/{schedule}/run", "/schedules/hourly/run");
  await check("GET /schedules", "/schedules?maxResults=1");
  await check("GET /schedules/{schedule}", "/schedules/nightly?pool=p");
  await check("DELETE /schedules/{schedule}", "/schedules/hourly");
  await check("DELETE /snapshots/{snapshot}", "/snapshots/s");
  await check("GET /snapshots/{snapshot}", "/snapshots/s");
  await check("GET /events", "/events?pool=p&type=snapshot.held");
  await check("DELETE /volumes/{volume}", "/volumes/v");
  await check("POST /snapshots", "/snapshots", { json: { pool: "p", name: "gone" } });
  await check("DELETE /snapshots/{snapshot}", "/snapshots/gone");
  await check("GET /events", "/events?pool=p&maxResults=1000");
  const coming = { name: "c", scopes: ["read"], volumes: ["i"], expiresAt: "2999-01-01T00:00:00Z" };
  const { token } = await check("POST /clients", "/clients", { json: coming });
  await check("GET /volumes", "/volumes", { token });
  await check("GET /volumes/{volume}", "/volumes/c", { token });
  await check("POST /clients/{client}/rotate", "/clients/c/rotate");
  await check("GET /clients", "/clients?maxResults=1");
  const slower = { requestsPerSecondMax: 1_000, bytesPerSecondMax: null };
  await check("PATCH /clients/{client}", "/clients/c", { json: slower });
  await check("GET /clients/{client}", "/clients/c");
  await check("DELETE /clients/{client}", "/clients/c");
  await check("GET /audit", "/audit");
  assertEquals([...validated].toSorted(), ROUTES);
  // And each route that can refuse, with its problem document.
  for (const route of ROUTES.filter((route) => !route.startsWith("GET /health"))) {
    const body = route.startsWith("PUT")
      ? { octets: new Uint8Array(1) }
      : /^(POST|PATCH)/.test(route)
      ? { text: "{" }
      : {};
    await check(route, route.split(" ")[1].replaceAll(/\{\w+\}/g, "-"), { ...body, token: null });
    await check(route, `${route.split(" ")[1].replaceAll(/\{\w+\}/g, "-")}?maxResults=x`, body);
  }
});

Deno.test("a queue of writes, trims and markers is listed, and told by client, as openapi.yaml documents", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 1, 512) });
  await door.call("DELETE", "/volumes/v/blocks/0");
  const { body: { id } } = await door.call("POST", "/snapshots", { json: { volumes: ["v"] } });
  const validate = createValidator();
  const answer = await door.call("GET", "/pools/main/cache");
  assertEquals(answer.body.entries.length, 3);
  assertEquals(validate(pointerTo("GET /pools/{pool}/cache", answer), answer.body), []);
  const snapshot = await door.call("GET", `/snapshots/${id}`);
  assertEquals(snapshot.body.progress.byClient.length, 1);
  assertEquals(validate(pointerTo("GET /snapshots/{snapshot}", snapshot), snapshot.body), []);
});

Deno.test("what schedules do by themselves is told as openapi.yaml documents", async () => {
  await using door = await createTestDoor();
  await createTestVolume(door, "v");
  await createTestVolume(door, "gone");
  const schedules = [
    { name: "runs", volumes: ["v"] },
    { name: "skips", label: "none" },
    { name: "fails", volumes: ["gone"] },
  ];
  for (const schedule of schedules) {
    const { status } = await door.call("POST", "/schedules", { json: { every: "PT1H", ...schedule } });
    assertEquals(status, 201);
  }
  await door.call("DELETE", "/volumes/gone");
  const at = new Date(Date.now() + 2 * 3_600_000);
  await door.system.createScheduler({ clock: () => at }).sweep();
  const { body } = await door.call("GET", "/events");
  const types = body.events.map(({ type }: { type: string }) => type);
  for (const type of ["schedule.ran", "schedule.skipped", "schedule.failed"]) {
    assert(types.includes(type), type);
  }
  await door.system.test.database.$client`update audit set origin = 'x' where chain_number = 1`;
  for (
    const [path, route] of [["/audit/verify", "GET /audit/verify"], ["/events", "GET /events"], [
      "/schedules",
      "GET /schedules",
    ], [
      "/audit",
      "GET /audit",
    ]]
  ) {
    const answer = await door.call("GET", path);
    assertEquals(createValidator()(pointerTo(route, answer), answer.body), []);
  }
});

Deno.test("a WebSocket's messages are what openapi.yaml documents", async () => {
  await using door = await createTestDoor();
  using subscriber = await subscribe(door, "?after=0&pool=main");
  await createTestPool(door, "p");
  await createTestVolume(door, "v");
  await door.call("PATCH", "/volumes/v", { json: { blockCount: 99 } });
  await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 8, 512) });
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
  const flusher = door.system.createFlusher({
    limits: { ...STORAGE_LIMITS, flushBatchEntriesMax: 1, progressMs: 0 },
  });
  while (await flusher.sweep());
  await door.call("DELETE", "/volumes/v");
  const events = await subscriber.take(9);
  assertEquals(new Set(events.map(({ type }) => type)).size, 8);
  const validate = createValidator();
  for (const event of events) assertEquals(validate("/components/schemas/Event", event), []);
});
