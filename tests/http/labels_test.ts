/** Labels over HTTP. */

import { assertEquals } from "@std/assert";
import { createTestDoor, createTestVolume, type TestDoor } from "../support/door.ts";
import { readPages } from "./paging.ts";
import { INVALID_ARGUMENT, INVALID_REQUEST, refusalsOf, VOLUME_NOT_FOUND } from "./problem.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
  await createTestVolume(door, "v");
  await door.call("POST", "/snapshots", { json: { volumes: ["v"], name: "s" } });
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const refuses = refusalsOf(() => door);
const SNAPSHOT_NOT_FOUND = { status: 404, code: "snapshot-not-found" };
const post = (path: string, json: unknown): [string, string, { json: unknown }] => ["POST", path, { json }];
const patch = (path: string, json: unknown): [string, string, { json: unknown }] => ["PATCH", path, { json }];

for (const labels of [null, [], ["a"], "a", 1, { a: 1 }, { a: {} }, { a: null }, { a: ["b"] }]) {
  const what = `the labels ${JSON.stringify(labels)}`;
  refuses(what, post("/volumes", { name: "n", blockCount: 1, labels }), INVALID_REQUEST);
  refuses(what, post("/snapshots", { volumes: ["v"], labels }), INVALID_REQUEST);
}
for (const labels of [[], "a", 1, { a: 1 }, { a: {} }]) {
  refuses(`the labels ${JSON.stringify(labels)}`, patch("/volumes/v", { labels }), INVALID_REQUEST);
  refuses(`the labels ${JSON.stringify(labels)}`, patch("/snapshots/s", { labels }), INVALID_REQUEST);
}
for (
  const labels of [
    { "": "x" },
    { "a b": "x" },
    { "a=b": "x" },
    { ["k".repeat(64)]: "x" },
    { a: "x".repeat(256) },
    { a: "\0" },
    { a: "\u001b[2J" },
    { a: "\ud800" },
    Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, "x"])),
  ]
) {
  const what = `the labels ${JSON.stringify(labels).slice(0, 30)}`;
  refuses(what, post("/volumes", { name: "n", blockCount: 1, labels }), INVALID_ARGUMENT);
  refuses(what, post("/snapshots", { volumes: ["v"], labels }), INVALID_ARGUMENT);
  refuses(what, patch("/volumes/v", { labels }), INVALID_ARGUMENT);
  refuses(what, patch("/snapshots/s", { labels }), INVALID_ARGUMENT);
}
refuses("an unknown volume", patch("/volumes/no", { labels: {} }), VOLUME_NOT_FOUND);
refuses("an unknown snapshot", patch("/snapshots/no", { labels: {} }), SNAPSHOT_NOT_FOUND);
refuses("no change", patch("/snapshots/s", {}), INVALID_REQUEST);
refuses("an unknown part", patch("/snapshots/s", { labels: {}, name: "t" }), INVALID_REQUEST);
refuses("a description of bytes", patch("/snapshots/s", { description: 1 }), INVALID_REQUEST);
for (const description of ["€".repeat(342), "a\u0000b", "\ud800"]) {
  refuses("a bad description", patch("/snapshots/s", { description }), INVALID_ARGUMENT);
}
refuses(
  "labels of bytes",
  post("/snapshots", { cdb: "c00100000000", volume: "v", labels: {} }),
  INVALID_REQUEST,
);
for (const list of ["/volumes", "/snapshots"]) {
  for (const label of ["", "=", "a%20b", "%00", "a=%00", `a=${"x".repeat(256)}`, "k".repeat(64), "%ff"]) {
    refuses(`the label "${label.slice(0, 10)}"`, ["GET", `${list}?label=${label}`], INVALID_ARGUMENT);
  }
  const many = Array(17).fill("label=a").join("&");
  refuses("more labels than the bound", ["GET", `${list}?${many}`], INVALID_ARGUMENT);
}

Deno.test("a label named __proto__ is a label like any other", async () => {
  const text = '{"name":"proto","blockCount":1,"labels":{"__proto__":"x","constructor":"y"}}';
  assertEquals((await door.call("POST", "/volumes", { text })).status, 201);
  const { body } = await door.call("GET", "/volumes/proto");
  assertEquals(Object.entries(body.labels), [["__proto__", "x"], ["constructor", "y"]]);
  const { body: found } = await door.call("GET", "/volumes?label=__proto__=x");
  assertEquals(found.volumes.length, 1);
});

Deno.test("labels are given, patched, shown everywhere, and searched for", async () => {
  const made = await door.call(
    ...post("/volumes", { name: "w", blockCount: 8, labels: { env: "prod", "a/b": "" } }),
  );
  assertEquals([made.status, made.body.labels], [201, { env: "prod", "a/b": "" }]);
  const patched = await door.call(
    ...patch("/volumes/w", { sizeBytes: 8192, labels: { "a/b": null, team: "x=y" } }),
  );
  assertEquals([patched.status, patched.body.blockCount], [200, 16]);
  assertEquals(patched.body.labels, { env: "prod", team: "x=y" });
  for (const name of ["w-1", "w-2", "w-3"]) {
    const labels = { env: "prod", name };
    const { status, body } = await door.call(...post("/snapshots", { volumes: ["w"], name, labels }));
    assertEquals([status, body.labels], [202, labels]);
    assertEquals(body.cdb.hex, "c00500000000", "labels are no part of the command");
  }
  const taken = await door.call(...patch("/snapshots/w-2", { labels: { env: null }, description: "why" }));
  assertEquals([taken.status, taken.body.labels, taken.body.description], [200, { name: "w-2" }, "why"]);
  assertEquals(
    (await door.call(...patch("/snapshots/w-2", { description: null }))).body.description,
    undefined,
  );
  assertEquals((await door.call(...patch("/snapshots/w-2", { labels: null }))).body.labels, {});
  const list = (path: string, key: string) => readPages(door, path, key, 1, ({ name }) => name);
  assertEquals(await list("/snapshots?label=env=prod&label=name", "snapshots"), [["w-1"], ["w-3"]]);
  assertEquals(await list("/snapshots?label=name=w-3&pool=main", "snapshots"), [["w-3"]]);
  assertEquals(await list("/volumes?label=team=x=y", "volumes"), [["w"]]);
  assertEquals(await list("/volumes?label=team=x&label=env", "volumes"), [[]]);
  assertEquals((await door.call("GET", "/volumes/v")).body.labels, {});
});
