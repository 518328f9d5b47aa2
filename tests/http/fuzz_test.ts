/**
 * Seeded nonsense on every documented route: whatever comes, the answer is a documented one or a problem document, never
 * the server's own failure; and what was stored meanwhile is whole.
 */

import { assert, assertEquals } from "@std/assert";
import {
  type Answer,
  type CallOptions,
  createTestDoor,
  createTestVolume,
  type TestDoor,
} from "../support/door.ts";
import { below, fill, seeded } from "../support/history.ts";
import { createValidator, document, operations as documented, pointerTo } from "./document.ts";

const ROUNDS = 20;
const SEEDS = [1, 2];

type Schema = Record<string, unknown> & {
  properties?: Record<string, Schema>;
  anyOf?: Schema[];
  $ref?: string;
};
interface Operation {
  readonly operationId: string;
  readonly parameters?: { name: string; in: string }[];
  readonly requestBody?: { content: Record<string, { schema: Schema }> };
}

const operations = documented.map(([route, operation]) => {
  const [method, path] = route.split(" ");
  return { path, method, operation: operation as Operation };
});

/** What texts are made of: things that are there, things that are not, and things that break careless programs. */
const TEXTS = [
  "main",
  "main-1",
  "v",
  "w",
  "s",
  "nowhere",
  "01a20573-4b9a-71ce-9029-d1d9944da612",
  "00000000-0000-0000-0000-000000000000",
  "0",
  "1",
  "-1",
  "7",
  "64",
  "0.5",
  "1e9",
  "9007199254740993",
  "99999999999999999999999999",
  "",
  " ",
  "\u0000",
  "a\u0000b",
  "\ud800",
  "\u202e",
  "💾",
  "'; drop table volumes; --",
  "../../etc/passwd",
  "%00",
  "%",
  "x".repeat(300),
  "sealed",
  "volume.created",
  "volume.created,marker.committed",
  "AAAA",
  "MQ",
  "NzA",
  "MC4w",
  "c00100000000",
  "c00300000000",
  "c1010000000100000200",
  "0000000501000001ff",
  "null",
  "__proto__",
];

/** What a part of that name mostly is, so that some requests get through. */
const LIKELY: Record<string, readonly unknown[]> = {
  name: ["n1", "n2", "n3", "n4", "n5", "n6"],
  pool: ["main"],
  volume: ["v", "w"],
  volumes: [["v"], ["w"], ["v", "w"]],
  lba: [0, 1, 8, 60],
  trim: [1, 4],
  blockCount: [1, 4, 64],
  blockSizeBytes: [512, 4096],
  segmentBlocks: [1, 4],
  count: [1, 4],
  maxResults: [1, 3],
  after: [0, 2],
  snapshot: ["s"],
  wait: ["sealed"],
  type: ["volume.created"],
};

class Nonsense {
  constructor(private readonly random: () => number) {}

  one<T>(items: readonly T[]): T {
    return items[below(this.random, items.length)];
  }

  chance(probability: number): boolean {
    return this.random() < probability;
  }

  number(): number {
    const numbers = [0, 1, 2, 8, 63, 64, 512, 4096, -1, 0.5, -0, 1e21, 2 ** 31, 2 ** 32, 2 ** 53, 1e308];
    return this.chance(0.3) ? below(this.random, 1_000_000) : this.one(numbers);
  }

  value(depth = 0): unknown {
    const kind = below(this.random, depth > 3 ? 5 : 8);
    if (kind === 0) return null;
    if (kind === 1) return this.chance(0.5);
    if (kind === 2) return this.number();
    if (kind <= 4) return this.one(TEXTS);
    if (kind === 5) return Array.from({ length: below(this.random, 4) }, () => this.value(depth + 1));
    const keys = Array.from({ length: below(this.random, 4) }, () => this.one(TEXTS));
    return Object.fromEntries(keys.map((key) => [key, this.value(depth + 1)]));
  }

  /** A value that looks like what `schema` describes, with faults strewn in. */
  like(schema: Schema, name = ""): unknown {
    if (this.chance(0.05)) return this.value();
    if (this.chance(0.8) && name in LIKELY) return this.one(LIKELY[name]);
    if (schema.$ref !== undefined) {
      return this.like(document.components.schemas[schema.$ref.split("/").at(-1) as string]);
    }
    if (schema.anyOf !== undefined) return this.like(this.one(schema.anyOf));
    if (schema.type === "integer" || schema.type === "number") return this.number();
    if (schema.type === "string") return this.text(schema);
    if (schema.type === "array") {
      return Array.from({ length: below(this.random, 4) }, () => this.like(schema.items as Schema));
    }
    const entries = Object.entries(schema.properties ?? {}).filter(() => this.chance(0.7));
    const extra = this.chance(0.05) ? [[this.one(TEXTS), this.value()]] : [];
    return Object.fromEntries([...entries.map(([name, inner]) => [name, this.like(inner, name)]), ...extra]);
  }

  text({ format }: Schema): string {
    if (format === "byte" && this.chance(0.7)) {
      return fill(below(this.random, 9), below(this.random, 4), 512).toBase64();
    }
    return this.one(TEXTS);
  }

  body(method: string, operation: Operation): CallOptions {
    if (method === "GET") return {};
    const content = operation.requestBody?.content ?? {};
    const [type] = Object.keys(content);
    if (type === undefined || this.chance(0.05)) return this.chance(0.1) ? { json: this.value() } : {};
    if (type === "application/octet-stream") {
      const octets = this.chance(0.7)
        ? fill(below(this.random, 9), below(this.random, 10), 512)
        : new Uint8Array(below(this.random, 3_000));
      return this.chance(0.9)
        ? { octets }
        : { octets, headers: { "content-type": this.one(TEXTS.slice(0, 13)) } };
    }
    if (this.chance(0.1)) return { text: JSON.stringify(this.like(content[type].schema)).slice(0, -1) };
    return { json: this.like(content[type].schema) };
  }

  path(path: string, operation: Operation): string {
    const text = () => encodeURIComponent(this.one(TEXTS).toWellFormed());
    const filled = path.replaceAll(/\{(\w+)\}/g, (_, name) => {
      if (name === "lba" && this.chance(0.6)) return String(below(this.random, 70));
      const known: Record<string, string> = { pool: "main", device: "main-1", volume: "v", snapshot: "s" };
      return this.chance(0.6) ? known[name] ?? text() : text();
    });
    const query = (operation.parameters ?? []).filter((parameter) =>
      parameter.in === "query" && this.chance(0.3)
    )
      .map(({ name }) => `${name}=${this.chance(0.7) && name in LIKELY ? this.one(LIKELY[name]) : text()}`);
    return query.length === 0 ? filled : `${filled}?${query.join("&")}`;
  }
}

for (const seed of SEEDS) {
  Deno.test(`every documented route survives nonsense of seed ${seed}`, async () => {
    await using door = await createTestDoor({ flusher: true });
    await createTestVolume(door, "v");
    await createTestVolume(door, "w");
    await door.call("PUT", "/volumes/v/blocks/0", { octets: fill(1, 8, 512) });
    await door.call("POST", "/snapshots", { json: { name: "s" } });
    const nonsense = new Nonsense(seeded(seed));
    const validate = createValidator();
    const statuses = new Map<number, number>();
    for (let round = 0; round < ROUNDS; round++) {
      // What an earlier round has deleted.
      for (const name of ["v", "w"]) await door.call("POST", "/volumes", { json: { name, blockCount: 64 } });
      for (const { path, method, operation } of operations) {
        const request = [method, nonsense.path(path, operation), nonsense.body(method, operation)] as const;
        const answer = await door.call(...request);
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        try {
          assertDocumented(validate, `${method} ${path}`, answer);
        } catch (error) {
          throw new Error(`${JSON.stringify(request).slice(0, 500)} was answered ${answer.status}`, {
            cause: error,
          });
        }
      }
    }
    console.log([...statuses].map(([status, count]) => `${count} × ${status}`).join(", "));
    // It was neither all refused nor all taken.
    for (const status of [200, 201, 204, 400, 404, 415, 422]) {
      assert(statuses.has(status), String(status));
    }
    await assertWhole(door);
  });
}

/** Whatever it is, the document says so, down to the last part of it. */
function assertDocumented(
  validate: ReturnType<typeof createValidator>,
  route: string,
  answer: Answer,
): void {
  assert(answer.status !== 500, "the server failed");
  if (answer.status === 204) return;
  const value = answer.body instanceof Uint8Array || answer.body === undefined ? "octets" : answer.body;
  assertEquals(validate(pointerTo(route, answer), value), []);
}

/** The server answers, its queue empties, and its counts agree with one another. */
async function assertWhole({ call, system }: TestDoor): Promise<void> {
  assertEquals((await call("GET", "/health/ready")).body.ready, true);
  const { body: { pools } } = await call("GET", "/pools?maxResults=1000");
  for (const { id } of pools) {
    assertEquals((await call("POST", `/pools/${id}/flush`)).status, 200);
    const { body } = await call("GET", `/pools/${id}`);
    assertEquals([body.dirtyEntries, body.dirtyBytes], [0, 0]);
    assertEquals(body.sequenceFlushed, body.sequenceAppended);
  }
  const [{ pending, mapped, taken }] = await system.test.database.$client`
    select (select count(*) from snapshots where status = 'pending') as pending,
      (select count(*) from segment_map) as mapped,
      (select sum(segments_touched - segments_returned)::bigint from devices) as taken`;
  assertEquals([pending, mapped], [0, taken]);
}
