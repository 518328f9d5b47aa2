import { assertEquals } from "@std/assert";
import { Client } from "../support/client.ts";
import { createTestDatabase } from "../support/database.ts";
import { fill } from "../support/history.ts";
import { startBundledServerProcess, startServerProcess, startWorkerProcess } from "../support/server.ts";

Deno.test("serve ends with 0 on SIGTERM and has answered what was in flight, so that it is there afterwards", async () => {
  await using test = await createTestDatabase();
  const answered: number[] = [];
  {
    await using server = await startServerProcess({ DATABASE_URL: test.url });
    const client = new Client(server.url);
    await client.createVolume({ name: "v", blockCount: 1000 });
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      for (let lba = writer; lba < 1000; lba += 8) {
        try {
          await client.write("v", lba, fill(lba + 1, 1, 4096));
          answered.push(lba);
        } catch {
          return;
        }
      }
    });
    while (answered.length < 40) await client.getPool("main");
    const startedAt = performance.now();
    server.kill("SIGTERM");
    assertEquals((await server.ended()).code, 0);
    assertEquals(performance.now() - startedAt < 10_000, true);
    await Promise.all(writers);
  }
  await using server = await startServerProcess({ DATABASE_URL: test.url });
  const bytes = await new Client(server.url).readVolume("v", 1000);
  const stamps = new Uint32Array(bytes.slice().buffer);
  for (const lba of answered) assertEquals(stamps[lba * 1024], lba + 1);
});

Deno.test("serve ends within 10 s on SIGTERM though a subscriber and a waiting request hold on to it", async () => {
  await using test = await createTestDatabase();
  await using server = await startServerProcess({ DATABASE_URL: test.url }, ["--no-flusher"]);
  const client = new Client(server.url);
  await client.createVolume({ name: "v", blockCount: 8 });
  await client.write("v", 0, fill(1, 1, 4096));
  const flushing = client.flush("main").catch((error) => String(error));
  const { id } = await client.snapshot({ volumes: ["v"] });
  const following = client.followToSeal(id).catch((error) => String(error));
  const startedAt = performance.now();
  server.kill("SIGTERM");
  assertEquals((await server.ended()).code, 0);
  assertEquals(performance.now() - startedAt < 10_000, true);
  await Promise.all([flushing, following]);
});

Deno.test("serve --no-flusher leaves the queue to workers, any number of them", async () => {
  await using test = await createTestDatabase();
  await using server = await startServerProcess({ DATABASE_URL: test.url }, ["--no-flusher"]);
  const client = new Client(server.url);
  await client.createVolume({ name: "v", blockCount: 1000 });
  for (let lba = 0; lba < 1000; lba += 250) await client.write("v", lba, fill(lba + 1, 250, 4096));
  const { id } = await client.snapshot({ volumes: ["v"] });
  assertEquals((await client.getSnapshot(id)).status, "pending");
  await using _first = await startWorkerProcess({ DATABASE_URL: test.url });
  await using second = await startWorkerProcess({ DATABASE_URL: test.url });
  const types = await client.followToSeal(id);
  assertEquals([types[0], types.at(-1)], ["marker.committed", "snapshot.sealed"]);
  second.kill("SIGTERM");
  assertEquals((await second.ended()).code, 0);
});

Deno.test("serve with the bundled PostgreSQL stops it, keeps the data and refuses a second server on it", async () => {
  const dataDir = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  // PostgreSQL runs as another user when we are root, and has to get through.
  await Deno.chmod(dataDir, 0o711);
  try {
    {
      await using server = await startBundledServerProcess(dataDir);
      const client = new Client(server.url);
      await client.createVolume({ name: "v", blockCount: 8 });
      await client.write("v", 3, fill(7, 1, 4096));
      const refused = await startBundledServerProcess(dataDir).catch((error) => error);
      assertEquals(refused instanceof Error, true);
      server.kill("SIGTERM");
      assertEquals((await server.ended()).code, 0);
    }
    await using server = await startBundledServerProcess(dataDir);
    const stamps = new Uint32Array((await new Client(server.url).readVolume("v", 8)).slice().buffer);
    assertEquals(Array.from({ length: 8 }, (_, lba) => stamps[lba * 1024]), [0, 0, 0, 7, 0, 0, 0, 0]);
    server.kill("SIGTERM");
    assertEquals((await server.ended()).code, 0);
  } finally {
    await Deno.remove(dataDir, { recursive: true });
  }
});
