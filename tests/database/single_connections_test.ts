import { assertEquals, assertRejects } from "@std/assert";
import type postgres from "postgres";
import { StorageError } from "../../src/errors.ts";
import { createTestDatabase } from "../support/database.ts";

/** Borrows the connection that was used last. */
async function borrow(
  { singleConnections }: {
    singleConnections: { use: <T>(body: (client: postgres.Sql) => Promise<T>) => Promise<T> };
  },
): Promise<postgres.Sql> {
  return await singleConnections.use((client) => Promise.resolve(client));
}

Deno.test("use() lends a connection again, but none that was lost, also where the loss was told as something else", async () => {
  await using test = await createTestDatabase("template1");
  const { database } = test;
  const first = await borrow(database);
  assertEquals(await borrow(database) === first, true);
  const failing = database.singleConnections.use(() => Promise.reject(new Error("not of the connection")));
  await assertRejects(() => failing);
  assertEquals(await borrow(database) === first, true);
  const losing = database.singleConnections.use(async (client) => {
    try {
      await client`select pg_terminate_backend(pg_backend_pid())`;
    } catch (cause) {
      throw new StorageError("outcome-unknown", "Cannot tell whether it took effect", { cause });
    }
  });
  await assertRejects(() => losing, StorageError);
  assertEquals(await borrow(database) === first, false);
});
