/**
 * `demo`: the whole story of a snapshot in the middle of writing, played and checked by a client.
 *
 * 1. A volume is created. A file is written to it in large PUTs over several connections, while a second client
 *    overwrites single blocks anywhere in it.
 * 2. Half-way a snapshot is requested. Nobody stops: its marker takes its place in the queue, writes go on behind it.
 * 3. The flusher carries off what is ahead of the marker, which one sees move; then the snapshot is sealed.
 * 4. The file is written to its end. How long the writes took before, during and after tells whether anybody was paused.
 * 5. The snapshot is read back and compared with the replay of the writes whose sequence is below the marker's; the
 *    volume with the replay of all of them. Every block counts.
 * 6. The volume is deleted, and the server stopped if it is the demo's own.
 *
 * It speaks HTTP and WebSocket only, so whatever it finds, any client would have found.
 */

import type { Config } from "../config.ts";
import { drawShare, formatBytes, formatCount } from "./demo_bar.ts";
import { DemoClient, type DemoEvent, type DemoSnapshot, type DemoVolume, type Range } from "./demo_client.ts";
import { replayWrites } from "./demo_contents.ts";
import { formatLatency, measureLatency } from "./demo_latency.ts";
import { Load, type LoggedWrite } from "./demo_load.ts";
import { Screen } from "./demo_screen.ts";
import { type DemoServer, findServer } from "./demo_server.ts";
import { verifyBlocks } from "./demo_verify.ts";
import { Watch } from "./demo_watch.ts";
import { untilStopped, whenAborted } from "./process.ts";

/** Some hundred megabytes a second would write it in a blink: large enough to be watched, small enough for any disk. */
const FILE_BYTES = 48 * 1024 * 1024;
/** Longest demo: a hundred times what it takes. */
const DEMO_MS_MAX = 600_000;
/** Longest wait for the seal. */
const SEAL_MS_MAX = 120_000;

/** A snapshot, and when it was requested and sealed, in milliseconds of the clock that the writes are timed by. */
interface Taken {
  readonly snapshot: DemoSnapshot;
  readonly requestedAt: number;
  readonly sealedAt: number;
}

/**
 * Plays the demo on the server at `url`; without it, on the one that runs or on one of its own.
 *
 * @throws {Error} when anything read back differs from what was written, or the demo could not be played to its end.
 */
export async function demo(config: Config, url?: string): Promise<void> {
  using signals = new DisposableStack();
  const stopped = untilStopped(signals);
  const overdue = AbortSignal.timeout(DEMO_MS_MAX);
  try {
    await using resources = new AsyncDisposableStack();
    const signal = AbortSignal.any([stopped, overdue]);
    const server = await findServer(resources, config, url, signal);
    await play(server, resources.use(new Screen()), signal);
  } catch (cause) {
    if (stopped.aborted) throw new Error("Cannot finish the demo: it was interrupted", { cause });
    if (overdue.aborted) throw new Error(`Cannot finish the demo within ${DEMO_MS_MAX} ms`, { cause });
    throw cause;
  }
}

/** Who plays, on what, before whose eyes. */
interface Scene {
  /** Writes the file, takes the snapshot, reads back. */
  readonly client: DemoClient;
  /** Overwrites blocks, and looks at the queue. */
  readonly another: DemoClient;
  readonly volume: DemoVolume;
  readonly load: Load;
  readonly screen: Screen;
}

async function play(server: DemoServer, screen: Screen, signal: AbortSignal): Promise<void> {
  using client = new DemoClient(server);
  using another = new DemoClient(server);
  screen.say(`Playing on ${server.url}: ${server.description}`);
  const name = `demo-${new Date().toISOString().replaceAll(/\D/g, "")}`;
  // Neither this nor the deletion is interrupted, so that no volume is left behind.
  const volume = await client.createVolume(name, FILE_BYTES, new AbortController().signal);
  try {
    screen.say(
      `Created volume ${name}: ${formatCount(volume.blockCount)} blocks of ${
        formatBytes(volume.blockSizeBytes)
      }`,
    );
    const scene = { client, another, volume, load: new Load(volume), screen };
    const taken = await writeAround(scene, signal);
    sayLatency(scene, taken);
    await verify(scene, taken.snapshot, signal);
  } finally {
    await deleteVolume(client, volume, screen);
  }
  if (!server.temporary) screen.say(`Snapshot ${toSnapshotName(volume)} stays: it outlives its volume`);
}

/** Writes the file, with a snapshot half-way, while another client overwrites blocks until both are done. */
async function writeAround(scene: Scene, signal: AbortSignal): Promise<Taken> {
  const { client, another, volume, load, screen } = scene;
  const watch = new Watch(screen);
  const ended = new AbortController();
  const share = () => load.fileBytesWritten / FILE_BYTES;
  screen.say(`Writing a file of ${formatBytes(FILE_BYTES)}, while a second client overwrites blocks of it`);
  let taken: Taken | undefined;
  await together(signal, [
    async (signal) => {
      await together(signal, [
        (signal) => load.writeFile(client, signal),
        async (signal) => {
          taken = await takeSnapshot(scene, watch, signal);
        },
      ]);
      ended.abort();
    },
    (signal) => load.overwrite(another, ended.signal, signal),
    (signal) => watch.follow(another, volume, share, ended.signal, signal),
  ]);
  screen.clear();
  return taken as Taken;
}

/** Requests a snapshot when half of the file is written, and follows its marker until it is sealed. */
async function takeSnapshot(scene: Scene, watch: Watch, signal: AbortSignal): Promise<Taken> {
  const { client, volume, load, screen } = scene;
  const late = new AbortController();
  const events = await client.followEvents(volume, AbortSignal.any([signal, late.signal]));
  await Promise.race([load.halfway, whenAborted(signal)]);
  signal.throwIfAborted();
  const timer = setTimeout(() => {
    late.abort(new Error(`Cannot see the snapshot sealed within ${SEAL_MS_MAX} ms: does a flusher run?`));
  }, SEAL_MS_MAX);
  try {
    screen.say(`Requesting a snapshot at ${formatBytes(load.fileBytesWritten)}; nobody stops writing`);
    const requestedAt = performance.now();
    const snapshot = await client.takeSnapshot(volume, toSnapshotName(volume), signal);
    watch.onMarker(snapshot);
    for await (const event of events) {
      if (event.snapshotId !== snapshot.id) continue;
      requireMarker(event, snapshot);
      if (event.type === "marker.progress") watch.onProgress(event);
      if (event.type !== "snapshot.sealed") continue;
      const sealedAt = performance.now();
      watch.onSealed(sealedAt - requestedAt);
      return { snapshot, requestedAt, sealedAt };
    }
    throw new Error("Cannot follow the events: they ended before the snapshot was sealed");
  } finally {
    clearTimeout(timer);
  }
}

function toSnapshotName(volume: DemoVolume): string {
  return `${volume.name}-halfway`;
}

/** An event of a snapshot must name the marker that its request was answered with. */
function requireMarker({ type, data }: DemoEvent, { sequence }: DemoSnapshot): void {
  if (data.sequence === sequence) return;
  throw new Error(`Cannot trust ${type}: expected marker ${sequence}, found ${data.sequence}`);
}

function sayLatency({ load, screen }: Scene, taken: Taken): void {
  const measure = (part: LoggedWrite["part"]) =>
    measureLatency(load.log.filter((write) => write.part === part), taken);
  const lines = formatLatency({
    "the file's large writes": measure("file"),
    "single blocks": measure("overwrite"),
  });
  for (const line of lines) screen.say(line);
}

/** Reads snapshot and volume back, and compares every block. */
async function verify(scene: Scene, snapshot: DemoSnapshot, signal: AbortSignal): Promise<void> {
  const { client, volume, load: { log }, screen } = scene;
  const { blockCount, blockSizeBytes } = volume;
  const inside = log.filter(({ sequence }) => sequence < snapshot.sequence);
  const before = replayWrites(log, blockCount, snapshot.sequence);
  const all = replayWrites(log, blockCount);
  const count = formatCount(blockCount);
  const onCompared = (compared: number) => {
    const words = `${formatCount(compared)} of ${count} blocks`;
    screen.draw((display) => drawShare("check", compared / blockCount, words, display));
  };
  const read = (range: Range) => client.readSnapshot(snapshot, range, signal);
  await verifyBlocks({ subject: "the snapshot", versions: before, blockSizeBytes, read, onCompared });
  screen.say(
    `Verified the snapshot: all ${count} blocks equal the replay of the ${
      formatCount(inside.length)
    } writes ` +
      `before marker ${formatCount(snapshot.sequence)}`,
  );
  const readLive = (range: Range) => client.readVolume(volume, range, signal);
  await verifyBlocks({ subject: "the volume", versions: all, blockSizeBytes, read: readLive, onCompared });
  screen.clear();
  const changed = all.filter((version, lba) => version !== before[lba]);
  screen.say(
    `Verified the volume: all ${count} blocks equal the replay of all ${formatCount(log.length)} writes; ` +
      `${formatCount(changed.length)} of them are newer than the snapshot`,
  );
}

async function deleteVolume(client: DemoClient, volume: DemoVolume, screen: Screen): Promise<void> {
  try {
    await client.deleteVolume(volume, new AbortController().signal);
    screen.say(`Deleted volume ${volume.name}`);
  } catch (error) {
    // What went wrong before, if anything, tells more.
    screen.say(`Cannot delete volume ${volume.name}: ${(error as Error).message}`);
  }
}

/** Runs tasks side by side. The first that fails aborts the others, and is thrown when all have ended. */
async function together(
  signal: AbortSignal,
  tasks: ((signal: AbortSignal) => Promise<void>)[],
): Promise<void> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  await Promise.all(tasks.map(async (task) => {
    try {
      await task(either);
    } catch (error) {
      failed.abort(error);
    }
  }));
  failed.signal.throwIfAborted();
}
