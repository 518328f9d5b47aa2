/** Tests of the keeper of a PostgreSQL, on a socket that a test opens and closes in its place. */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { Keeper } from "../../src/database/embedded/keeper.ts";
import { until } from "../support/door.ts";

interface TestSocket extends AsyncDisposable {
  readonly path: string;
  open(): void;
  close(): void;
}

async function createSocket(): Promise<TestSocket> {
  const directory = await Deno.makeTempDir({ prefix: "snapmark-test-" });
  const path = join(directory, "socket");
  let listener: Deno.UnixListener | undefined;
  const close = () => {
    listener?.close();
    listener = undefined;
  };
  return {
    path,
    open: () => {
      listener = Deno.listen({ transport: "unix", path });
    },
    close,
    [Symbol.asyncDispose]: async () => {
      close();
      await Deno.remove(directory, { recursive: true });
    },
  };
}

Deno.test("a keeper starts again what has ended, and leaves alone what listens though it accepts nothing", async () => {
  await using socket = await createSocket();
  socket.open();
  let revivals = 0;
  const keeper = new Keeper({
    socket: socket.path,
    revive: () => {
      revivals += 1;
      socket.open();
      return Promise.resolve();
    },
    onProgress: () => {},
    lookMs: 1,
    pauseMs: 1,
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assertEquals(revivals, 0);
  socket.close();
  await until(() => revivals === 1);
  await keeper.stop();
  assertEquals([revivals, keeper.lost.aborted], [1, false]);
});

Deno.test("a keeper gives up after five tries, and says why, whether they fail or what they start ends at once", async () => {
  for (const fails of [true, false]) {
    await using socket = await createSocket();
    let tries = 0;
    const lines: string[] = [];
    const keeper = new Keeper({
      socket: socket.path,
      revive: () => {
        tries += 1;
        return fails ? Promise.reject(new Error("Cannot start it")) : Promise.resolve();
      },
      onProgress: (line) => lines.push(line),
      lookMs: 1,
      pauseMs: 1,
    });
    await until(() => keeper.lost.aborted);
    assertEquals(tries, 5);
    assert((keeper.lost.reason as Error).message.startsWith("Cannot keep PostgreSQL running"));
    assertEquals(lines.filter((line) => line === "Cannot start it").length, fails ? 5 : 0);
    await keeper.stop();
  }
});

Deno.test("a keeper whose server does not start on a full disk tries until there is room", async () => {
  await using socket = await createSocket();
  let tries = 0;
  const keeper = new Keeper({
    socket: socket.path,
    revive: () => {
      tries += 1;
      if (tries < 20) return Promise.reject(new Error("FATAL: could not write: No space left on device"));
      socket.open();
      return Promise.resolve();
    },
    onProgress: () => {},
    lookMs: 1,
    pauseMs: 1,
    fullPauseMs: 1,
  });
  await until(() => tries === 20);
  await keeper.stop();
  assertEquals([tries, keeper.lost.aborted], [20, false]);
});

Deno.test("a keeper that is stopped gives up the start in hand", async () => {
  await using socket = await createSocket();
  const started = Promise.withResolvers<void>();
  const keeper = new Keeper({
    socket: socket.path,
    revive: (signal) => {
      started.resolve();
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    },
    onProgress: () => {},
    lookMs: 1,
    pauseMs: 1,
  });
  await started.promise;
  await keeper.stop();
  assertEquals(keeper.lost.aborted, false);
});
