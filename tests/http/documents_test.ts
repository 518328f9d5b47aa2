/** `/openapi.json`, `/openapi.yaml` and `/docs`: open to everyone, and whole without the internet. */

import { assertEquals, assertMatch } from "@std/assert";
import { parse } from "@std/yaml";
import { createTestDoor, type TestDoor } from "../support/door.ts";

let door: TestDoor;
Deno.test.beforeAll(async () => {
  door = await createTestDoor();
});
Deno.test.afterAll(async () => await door[Symbol.asyncDispose]());

const open = (path: string) => door.call("GET", path, { token: null });

Deno.test("GET /openapi.json and GET /openapi.yaml answer one document, without a token", async () => {
  const json = await open("/openapi.json");
  assertEquals([json.status, json.headers.get("content-type")], [200, "application/json"]);
  assertEquals([json.body.openapi, json.body.info.title], ["3.1.0", "Snapmark"]);
  const yaml = await open("/openapi.yaml");
  assertEquals([yaml.status, yaml.headers.get("content-type")], [200, "application/yaml"]);
  assertEquals(parse(yaml.body), json.body);
});

Deno.test("GET /docs answers a page that loads from this server alone", async () => {
  const page = await open("/docs");
  assertEquals(page.status, 200);
  assertMatch(page.headers.get("content-type") ?? "", /^text\/html/);
  assertMatch(page.headers.get("content-security-policy") ?? "", /^default-src 'self';/);
  assertEquals(/https?:|\/\//.test(page.body.replace("<!doctype html>", "")), false);
  const loaded = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path);
  assertEquals(loaded, ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/start.js"]);
  const assets = await Promise.all(loaded.map(open));
  assertEquals(assets.map(({ status, headers }) => [status, headers.get("content-type")]), [
    [200, "text/css; charset=utf-8"],
    [200, "text/javascript; charset=utf-8"],
    [200, "text/javascript; charset=utf-8"],
  ]);
  assertEquals(assets[1].body.includes("SwaggerUIBundle"), true);
  assertMatch(assets[2].body, /SwaggerUIBundle\(\{ url: "\/openapi\.json"/);
});

Deno.test("GET /docs serves no other file", async () => {
  for (
    const path of ["/docs/package.json", "/docs/absolute-path.js", "/docs/%2e%2e/package.json", "/docs/x"]
  ) {
    assertEquals((await door.call("GET", path)).status, 404);
  }
});
