import { assertEquals, assertRejects } from "@std/assert";
import { join } from "@std/path";
import { authenticateAdmin, findAdminToken } from "../src/token.ts";

Deno.test("findAdminToken() makes a token once, for its owner's eyes only, also when two processes start at once", async () => {
  const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  try {
    const [first, second] = await Promise.all([findAdminToken({ dataDir }), findAdminToken({ dataDir })]);
    assertEquals(first, second);
    assertEquals(await findAdminToken({ dataDir }), first);
    assertEquals(/^[\w-]{43}$/.test(first.token), true);
    assertEquals((await Deno.stat(first.place)).mode! & 0o777, 0o600);
    assertEquals(Array.from(Deno.readDirSync(dataDir), ({ name }) => name), ["admin-token"]);
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});

Deno.test("findAdminToken() refuses a file that holds no token", async () => {
  const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  try {
    await Deno.writeTextFile(join(dataDir, "admin-token"), "\n");
    await assertRejects(() => findAdminToken({ dataDir }), Error, "Cannot use the token");
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});

Deno.test("authenticateAdmin() knows its own token and no other", () => {
  const authenticate = authenticateAdmin("0123456789abcdef");
  assertEquals(authenticate("0123456789abcdef")?.clientName, "admin");
  for (const token of ["0123456789abcdeF", "0123456789abcde", "0123456789abcdef0", ""]) {
    assertEquals(authenticate(token), undefined);
  }
});
