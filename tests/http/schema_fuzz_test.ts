/**
 * Every route of `openapi.yaml`, called with bodies and queries that are derived from its schemas, valid ones and such with a fault:
 * each answer is valid against the document, and none is a 500. And commands of all 256 first bytes, with random tails.
 *
 * A failure prints fast-check's seed and path, which repeat it.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  type Answer,
  type CallOptions,
  createTestDoor,
  createTestVolume,
  type TestDoor,
} from "../support/door.ts";
import { fill } from "../support/history.ts";
import {
  createValidator,
  document,
  operations,
  pointerTo,
  pointerToBody,
  requireStatus,
} from "./document.ts";

const SEED = 20_261_125;
/** Calls of each route. */
const CALLS = 12;
/** Calls with bad values that are under way at once. */
const AT_ONCE = 8;
/** Tails of each first byte. */
const TAILS = 3;

// deno-lint-ignore no-explicit-any -- a schema is walked as it comes
type Schema = any;

/** What is there, by the name of the part that would say so. */
const KNOWN: Record<string, readonly string[]> = {
  pool: ["main"],
  device: ["main-1"],
  volume: ["v", "w"],
  snapshot: ["s"],
  base: ["s"],
  schedule: ["h"],
  lba: ["0", "7", "63"],
};

/** What mostly breaks a part, whatever it is. */
const FAULTS: fc.Arbitrary<unknown> = fc.oneof(
  fc.constantFrom(
    null,
    true,
    -1,
    0.5,
    2 ** 53,
    1e308,
    "",
    "\u0000",
    "x".repeat(5_000),
    [],
    {},
    [[]],
    "__proto__",
  ),
  fc.string({ unit: "binary", maxLength: 20 }),
  fc.jsonValue({ maxDepth: 2 }),
);

/** Bodies that say they are JSON and are not, or are nothing that any schema has. */
const NO_JSON = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }),
  fc.json().map((text) => text.slice(0, -1)),
  fc.integer({ min: 1, max: 20_000 }).map((depth) => "[".repeat(depth)),
  fc.integer({ min: 1, max: 20_000 }).map((depth) => `${"[".repeat(depth)}${"]".repeat(depth)}`),
  fc.constantFrom("", "NaN", "1e999999", '{"name":1,"name":2}', '{"__proto__":{}}', "\ufeff{}"),
);

/** Headers that mean something to some route, with anything that a header may have. */
const HEADERS = [
  "idempotency-key",
  "content-digest",
  "want-content-digest",
  "range",
  "if-range",
  "content-range",
  "accept",
];
const headers: fc.Arbitrary<Record<string, string>> = fc.dictionary(
  fc.constantFrom(...HEADERS),
  fc.oneof(
    fc.stringMatching(/^[!-~]([ -~]{0,40}[!-~])?$/),
    fc.constantFrom(
      "bytes=0-",
      "bytes=511-0",
      "bytes 0-511/512",
      "sha-256=:AAAA:",
      "sha-256=1",
      "*/*",
      '"k"',
    ),
  ),
  { maxKeys: 2 },
);

/** Values that `schema` allows, as far as it says so. */
function valid(schema: Schema, name = ""): fc.Arbitrary<unknown> {
  if (schema.$ref !== undefined) {
    return valid(document.components.schemas[schema.$ref.split("/").at(-1)], name);
  }
  const forms = schema.anyOf ?? schema.oneOf;
  if (forms !== undefined) return fc.oneof(...forms.map((form: Schema) => valid(form, name)));
  if (schema.allOf !== undefined) return valid(Object.assign({}, ...schema.allOf), name);
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === "string") return text(schema, name);
  if (type === "boolean") return fc.boolean();
  if (type === "integer" || type === "number") return number(schema);
  if (type === "array") {
    return fc.array(valid(schema.items ?? {}, name.replace(/s$/, "")), { maxLength: 3 });
  }
  if (type === "null") return fc.constant(null);
  return object(schema);
}

function number({ minimum = 0, maximum = 2 ** 53 - 1 }: Schema): fc.Arbitrary<number> {
  const small = fc.integer({ min: minimum, max: Math.max(minimum, Math.min(maximum, 64)) });
  return fc.oneof(
    { weight: 4, arbitrary: small },
    fc.maxSafeInteger().filter((n) => n >= minimum && n <= maximum),
  );
}

function text({ format, minLength = 0, maxLength = 40 }: Schema, name: string): fc.Arbitrary<string> {
  if (format === "byte") {
    return fc.integer({ min: 0, max: 3 }).map((count) => fill(count, count, 512).toBase64());
  }
  if (format === "date-time") return fc.date({ noInvalidDate: true }).map((date) => date.toISOString());
  if (format === "uuid") return fc.uuid({ version: 7 });
  const known = KNOWN[name] ?? [];
  const made = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/).map((found) =>
    found.padEnd(minLength, "x").slice(0, maxLength)
  );
  return known.length === 0 ? made : fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...known) }, made);
}

function object({ properties = {}, required = [], additionalProperties }: Schema): fc.Arbitrary<unknown> {
  const parts = Object.entries(properties).map(([name, inner]) => [name, valid(inner, name)]);
  const known = fc.record(Object.fromEntries(parts), { requiredKeys: required });
  if (typeof additionalProperties !== "object") return known;
  const others = fc.dictionary(fc.stringMatching(/^[a-z]{1,9}$/), valid(additionalProperties), {
    maxKeys: 3,
  });
  return fc.tuple(known, others).map(([one, other]) => ({ ...(one as object), ...other }));
}

/** One part of `value`, itself or deep within, is replaced by a fault, removed, or has a stranger beside it. */
function mutated(value: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  return fc.tuple(value, FAULTS, fc.nat(), fc.nat(3)).map(([whole, fault, at, kind]) => {
    if (typeof whole !== "object" || whole === null) return fault;
    const copy = structuredClone(whole) as Record<string, unknown>;
    const places = listPlaces(copy);
    if (places.length === 0) return fault;
    const [holder, key] = places[at % places.length];
    if (kind === 0) delete holder[key];
    else if (kind === 1 && !Array.isArray(holder)) holder.stranger = fault;
    else holder[key] = fault;
    return copy;
  });
}

function listPlaces(value: Record<string, unknown>): [holder: Record<string, unknown>, key: string][] {
  return Object.entries(value).flatMap(([key, inner]) => [
    [value, key] as [Record<string, unknown>, string],
    ...(typeof inner === "object" && inner !== null ? listPlaces(inner as Record<string, unknown>) : []),
  ]);
}

function mostlyValid(schema: Schema, name = ""): fc.Arbitrary<unknown> {
  const value = valid(schema, name);
  return fc.oneof({ weight: 3, arbitrary: value }, { weight: 2, arbitrary: mutated(value) });
}

function toText(value: unknown): string {
  const text = typeof value === "object" ? JSON.stringify(value) : String(value);
  return encodeURIComponent(text.toWellFormed());
}

function pathOf(path: string, operation: Schema): fc.Arbitrary<string> {
  const parameters = (operation.parameters ?? []).filter((one: Schema) => one.name !== undefined);
  const named = (where: string) => parameters.filter((one: Schema) => one.in === where);
  const places = named("path").map((one: Schema): [string, fc.Arbitrary<unknown>] => {
    const known = fc.constantFrom(...(KNOWN[one.name] ?? ["01a20573-4b9a-71ce-9029-d1d9944da612"]));
    return [one.name, fc.oneof({ weight: 4, arbitrary: known }, mostlyValid(one.schema, one.name))];
  });
  const query = named("query").map((one: Schema): [string, fc.Arbitrary<unknown>] => [
    one.name,
    fc.option(mostlyValid(one.schema, one.name), { nil: undefined, freq: 1 }),
  ]);
  return fc.tuple(fc.record(Object.fromEntries(places)), fc.record(Object.fromEntries(query))).map(
    ([inPath, inQuery]) => {
      // An empty or dotted part would be another path.
      const part = (name: string) => toText((inPath as Record<string, unknown>)[name]).replace(/^\.*$/, "-");
      const asked = Object.entries(inQuery).filter(([, value]) => value !== undefined);
      const words = asked.flatMap(([name, value]) =>
        (Array.isArray(value) ? value : [value]).map((one) => `${name}=${toText(one)}`)
      );
      return path.replaceAll(/\{(\w+)\}/g, (_, name) => part(name)) +
        (words.length > 0 ? `?${words.join("&")}` : "");
    },
  );
}

function bodyOf(operation: Schema): fc.Arbitrary<CallOptions> {
  const [type, media] = Object.entries<Schema>(operation.requestBody?.content ?? {})[0] ?? [];
  if (type === undefined) return fc.constant({});
  if (type === "application/json") {
    return fc.oneof(
      { weight: 6, arbitrary: mostlyValid(media.schema).map((json) => ({ json: json ?? null })) },
      { weight: 1, arbitrary: NO_JSON.map((text) => ({ text })) },
    );
  }
  return fc.oneof(
    fc.integer({ min: 0, max: 8 }).map((count) => ({ octets: fill(1, count, 512) })),
    fc.uint8Array({ maxLength: 2_000 }).map((octets) => ({ octets })),
  );
}

/** Fails unless the document says that `route` answers so, and takes what it took. */
function assertValid(
  validate: ReturnType<typeof createValidator>,
  route: string,
  answer: Answer,
  json?: unknown,
): void {
  assert(answer.status !== 500, JSON.stringify(answer.body));
  const body = json === undefined ? undefined : pointerToBody(route);
  if (body !== undefined && answer.status < 400) assertEquals(validate(body, json), [], "was taken");
  requireStatus(route, answer.status);
  if (answer.status === 204) return;
  const value = answer.body instanceof Uint8Array || answer.body === undefined ? "octets" : answer.body;
  assertEquals(validate(pointerTo(route, answer), value), []);
}

function describe(statuses: Map<number, number>): string {
  return [...statuses].toSorted(([a], [b]) => a - b).map(([status, count]) => `${count} × ${status}`).join(
    ", ",
  );
}

async function furnish({ call }: TestDoor): Promise<void> {
  for (const name of ["v", "w"]) await call("POST", "/volumes", { json: { name, blockCount: 64 } });
  await call("POST", "/snapshots", { json: { name: "s" } });
  await call("POST", "/schedules", { json: { name: "h", every: "PT1H", volumes: ["v"] } });
}

Deno.test(`every route answers as documented, whatever its schema makes up, and never 500 (seed ${SEED})`, async () => {
  await using door = await createTestDoor({ flusher: true });
  const validate = createValidator();
  const statuses = new Map<number, number>();
  for (const [route, operation] of operations) {
    const [method, path] = route.split(" ");
    const call = fc.record({
      path: pathOf(path, operation),
      options: fc.tuple(bodyOf(operation), fc.option(headers, { nil: {}, freq: 2 }))
        .map(([body, others]) => ({ ...body, headers: others })),
    });
    await furnish(door);
    await fc.assert(
      fc.asyncProperty(call, async ({ path, options }) => {
        const answer = await door.call(method, path, options);
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
        assertValid(validate, route, answer, options.json);
      }),
      { seed: SEED, numRuns: CALLS, endOnFailure: true },
    );
  }
  console.log(
    `${[...statuses.values()].reduce((sum, count) => sum + count)} requests: ${describe(statuses)}`,
  );
  for (const status of [200, 201, 400, 404, 422]) assert(statuses.has(status), `none was answered ${status}`);
  assertEquals((await door.call("GET", "/health/ready")).body.ready, true);
});

/** What breaks careless programs, each for itself: in a path or a query, and in a body. */
const BAD_TEXTS = [
  "",
  "\0",
  "a\0b",
  "-1",
  "0.5",
  "1e400",
  "9007199254740993",
  "9".repeat(26),
  "x".repeat(5_000),
  "\ud800",
  "__proto__",
  "%00",
  "'",
  "💾",
];
const BAD_VALUES = [...BAD_TEXTS, null, true, -1, 0.5, 2 ** 53, 2 ** 63, 1e308, [], {}, [[]], [null], ["\0"]];

/** Of all that could be tried, every third: so each value meets many parts, though not each, and the suite keeps to its time. */
const EVERY = 3;

/** A call that is valid as far as the document says, with other values for a parameter or a part of its body. */
function callWith(
  route: string,
  operation: Schema,
  seed: number,
  bad: { parameter?: string; part?: string; value?: unknown },
): [path: string, options: CallOptions] {
  const [, path] = route.split(" ");
  const parameters: Schema[] = (operation.parameters ?? []).filter((one: Schema) => one.name !== undefined);
  const inPath = path.replaceAll(/\{(\w+)\}/g, (_, name) => {
    const text = name === bad.parameter ? String(bad.value) : KNOWN[name]?.[0] ?? "none";
    return toText(text).replace(/^\.*$/, "-");
  });
  const isQuery = parameters.some((one) => one.in === "query" && one.name === bad.parameter);
  const query = isQuery ? `?${bad.parameter}=${toText(bad.value)}` : "";
  const [type, media] = Object.entries<Schema>(operation.requestBody?.content ?? {})[0] ?? [];
  if (type === undefined) return [inPath + query, {}];
  if (type !== "application/json") return [inPath + query, { octets: fill(1, 1, 512) }];
  const [body] = fc.sample(valid(media.schema), { seed, numRuns: 1 });
  const json = bad.part === undefined ? body : { ...body as object, [bad.part]: bad.value };
  return [inPath + query, { json: json ?? null }];
}

/** The parts of a route's JSON body, in whichever of its forms. */
function listParts(operation: Schema): string[] {
  const parts = (schema: Schema): string[] => {
    if (schema?.$ref !== undefined) return parts(document.components.schemas[schema.$ref.split("/").at(-1)]);
    const forms = schema?.anyOf ?? schema?.oneOf ?? schema?.allOf ?? [];
    return [...Object.keys(schema?.properties ?? {}), ...forms.flatMap(parts)];
  };
  return [...new Set(parts(operation.requestBody?.content?.["application/json"]?.schema))];
}

Deno.test("every route answers as documented to bad values of each parameter and each part of a body", async () => {
  await using door = await createTestDoor({ flusher: true });
  const validate = createValidator();
  let tried = 0;
  for (const [route, operation] of operations) {
    await furnish(door);
    const parameters = (operation.parameters ?? [])
      .filter((one: Schema) => one.in === "path" || one.in === "query").map(({ name }: Schema) => name);
    const bads = [
      ...parameters.flatMap((parameter: string) => BAD_TEXTS.map((value) => ({ parameter, value }))),
      ...listParts(operation).flatMap((part) => BAD_VALUES.map((value) => ({ part, value }))),
    ].filter((_, index) => index % EVERY === 0);
    const tryOne = async (bad: (typeof bads)[number]) => {
      const [path, options] = callWith(route, operation, SEED + tried++, bad);
      const answer = await door.call(route.split(" ")[0], path, options);
      try {
        assertValid(validate, route, answer, options.json);
      } catch (error) {
        throw new Error(`${route} with ${JSON.stringify(bad).slice(0, 200)}`, { cause: error });
      }
    };
    for (let index = 0; index < bads.length; index += AT_ONCE) {
      await Promise.all(bads.slice(index, index + AT_ONCE).map(tryOne));
    }
  }
  console.log(`${tried} requests`);
});

Deno.test(`POST /snapshots answers CDBs of all 256 first bytes with random tails as documented (seed ${SEED})`, async () => {
  await using door = await createTestDoor({ flusher: true });
  await createTestVolume(door, "v");
  const validate = createValidator();
  let tried = 0;
  const hex = (lengthMax: number) => fc.uint8Array({ maxLength: lengthMax }).map((bytes) => bytes.toHex());
  for (let first = 0; first < 256; first++) {
    const command = fc.record({
      cdb: hex(40).map((tail) => first.toString(16).padStart(2, "0") + tail),
      dataOut: fc.option(hex(200), { nil: undefined }),
      volume: fc.constantFrom("v", undefined),
    });
    await fc.assert(
      fc.asyncProperty(command, async ({ cdb, dataOut, volume }) => {
        const json = {
          cdb,
          ...(dataOut === undefined ? {} : { dataOut }),
          ...(volume === undefined ? {} : { volume }),
        };
        tried += 1;
        assertValid(validate, "POST /snapshots", await door.call("POST", "/snapshots", { json }));
      }),
      { seed: SEED + first, numRuns: TAILS, endOnFailure: true },
    );
  }
  console.log(`${tried} commands`);
});
