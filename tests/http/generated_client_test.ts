/** A client generated from `openapi.yaml`: it type-checks, refuses what is wrong, and drives a real server. */

import { assertEquals } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { createTestDatabase } from "../support/database.ts";
import { startServerProcess, TEST_TOKEN } from "../support/server.ts";

const OPENAPI_YAML = fromFileUrl(new URL("../../openapi.yaml", import.meta.url));

/** A project of its own, as whoever uses the service from TypeScript has it; it is no part of this one's dependencies. */
const PROJECT = {
  imports: {
    "openapi-fetch": "npm:openapi-fetch@0.17.0",
    "openapi-typescript": "npm:openapi-typescript@7.13.0",
    "typescript": "npm:typescript@5.9.3",
  },
};

/** Generates the types, octets as Blob, as the generator's manual has it. */
const GENERATE = `
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const BLOB = ts.factory.createTypeReferenceNode(ts.factory.createIdentifier("Blob"));
const nodes = await openapiTS(await Deno.readTextFile(Deno.args[0]), {
  transform: ({ format }) => format === "binary" ? BLOB : undefined,
});
await Deno.writeTextFile("schema.d.ts", astToString(nodes));
`;

const CLIENT = `
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

const [url, token] = Deno.args;
const client = createClient<paths>({ baseUrl: url, headers: { authorization: \`Bearer \${token}\` } });

function must<T>({ data, error }: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (error !== undefined) throw new Error(\`\${error.code}: \${error.detail}\`);
  return data as T;
}
`;

const RIGHT = `${CLIENT}
const volume = must(await client.POST("/volumes", { body: { name: "generated", blockCount: 16 } }));
const path = { volume: volume.name, lba: 0 };
const octets = new Blob([new Uint8Array(2 * volume.blockSizeBytes).fill(7)]);
const written = must(
  await client.PUT("/volumes/{volume}/blocks/{lba}", {
    params: { path },
    headers: { "content-type": "application/octet-stream" },
    body: octets,
    bodySerializer: (body) => body,
  }),
);
const many = must(
  await client.POST("/volumes/{volume}/writes", {
    params: { path: { volume: volume.id } },
    body: { writes: [{ lba: 1, trim: 1 }, { lba: 2, data: new Uint8Array(volume.blockSizeBytes).fill(9).toBase64() }] },
  }),
);
const snapshot = must(
  await client.POST("/snapshots", {
    params: { query: { wait: "sealed" } },
    body: { volumes: [volume.name], name: "generated" },
  }),
);
must(await client.DELETE("/volumes/{volume}/blocks/{lba}", { params: { path, query: { count: 4 } } }));

const live = await client.GET("/volumes/{volume}/blocks/{lba}", {
  params: { path, query: { count: 3 } },
  parseAs: "arrayBuffer",
});
const kept = must(
  await client.GET("/snapshots/{snapshot}/blocks/{lba}", {
    params: { path: { snapshot: "generated", lba: 0 }, query: { count: 3 } },
    headers: { accept: "application/json" },
  }),
);
if (!("data" in kept)) throw new Error("expected JSON");
const bytes = Uint8Array.fromBase64(kept.data);

const names: string[] = [];
let pageToken: string | undefined;
do {
  const query = { maxResults: 1, ...(pageToken === undefined ? {} : { pageToken }) };
  const page = must(await client.GET("/volumes", { params: { query } }));
  names.push(...page.volumes.map(({ name }) => name));
  pageToken = page.nextPageToken;
} while (pageToken !== undefined);

const { events } = must(await client.GET("/events", { params: { query: { snapshot: snapshot.id } } }));
const sealed = events.flatMap((event) => event.type === "snapshot.sealed" ? [event.data.sequence] : []);
const refused = await client.GET("/volumes/{volume}", { params: { path: { volume: "nowhere" } } });

console.log(JSON.stringify({
  written: written.blockCount,
  many: many.blockCount,
  inside: many.sequence < snapshot.sequence,
  status: snapshot.status,
  cdb: snapshot.cdb.hex,
  live: [...new Set(new Uint8Array(must(live)))],
  kept: [0, 1, 2].map((block) => bytes[block * volume.blockSizeBytes]),
  names,
  sealed: sealed.length === 1 && sealed[0] === snapshot.sequence,
  refused: [refused.response.status, refused.error?.code],
}));
`;

/** Calls that are wrong, each in one way. */
const WRONG = `${CLIENT}
await client.GET("/volume");
await client.POST("/volumes", { body: { name: 1, blockCount: 16 } });
await client.POST("/volumes", { body: { blockCount: 16 } });
await client.GET("/volumes/{volume}/blocks/{lba}", { params: { path: { volume: "v" } } });
await client.GET("/volumes/{volume}/blocks/{lba}", { params: { path: { volume: "v", lba: "0" } } });
await client.POST("/snapshots", { params: { query: { wait: "flushed" } }, body: {} });
must(await client.GET("/snapshots/{snapshot}", { params: { path: { snapshot: "s" } } })).state;
`;
const WRONG_CALLS = 7;

let directory: string;
/** What the type checker finds in both. */
let findings: string;
Deno.test.beforeAll(async () => {
  directory = await Deno.makeTempDir({ prefix: "snapmark-client-" });
  const files = {
    "deno.json": JSON.stringify(PROJECT),
    "generate.ts": GENERATE,
    "right.ts": RIGHT,
    "wrong.ts": WRONG,
  };
  for (const [name, content] of Object.entries(files)) {
    await Deno.writeTextFile(join(directory, name), content);
  }
  const permissions = ["read", "write", "env", "sys"].map((name) => `--allow-${name}`);
  const { code, stderr } = await runDeno("run", ...permissions, "generate.ts", OPENAPI_YAML);
  assertEquals(code, 0, stderr);
  findings = (await runDeno("check", "right.ts", "wrong.ts")).stderr;
});
Deno.test.afterAll(async () => await Deno.remove(directory, { recursive: true }));

/** The lines of a file that the type checker refuses; what it shows besides, to explain, is not meant. */
function linesRefused(file: string): number[] {
  const places = findings.split("[ERROR]").slice(1).map((finding) =>
    /(\w+(?:\.d)?\.ts):(\d+):/.exec(finding)
  );
  const lines = places.flatMap((place) => place?.[1] === file ? [Number(place[2])] : []);
  return [...new Set(lines)].toSorted((a, b) => a - b);
}

Deno.test("a client generated from openapi.yaml type-checks", () => {
  assertEquals([linesRefused("right.ts"), linesRefused("schema.d.ts")], [[], []], findings);
});

Deno.test("a client generated from openapi.yaml refuses each wrong call", () => {
  const end = WRONG.trimEnd().split("\n").length + 1;
  const wrong = Array.from({ length: WRONG_CALLS }, (_, index) => end - WRONG_CALLS + index);
  assertEquals(linesRefused("wrong.ts"), wrong, findings);
});

Deno.test("a client generated from openapi.yaml drives a server", async () => {
  await using database = await createTestDatabase();
  await using server = await startServerProcess({ DATABASE_URL: database.url });
  const { code, stdout, stderr } = await runDeno("run", "--allow-net", "right.ts", server.url, TEST_TOKEN);
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout), {
    written: 2,
    many: 2,
    inside: true,
    status: "sealed",
    cdb: "c00400000000",
    live: [0],
    kept: [7, 0, 9],
    names: ["generated"],
    sealed: true,
    refused: [404, "volume-not-found"],
  });
});

async function runDeno(
  subcommand: string,
  ...args: string[]
): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: [subcommand, "--quiet", ...args],
    cwd: directory,
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await command.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}
