/**
 * The demo's eyes: what the events tell of the marker, and how the queue stands, drawn while it moves.
 */

import {
  drawQueue,
  formatBytes,
  formatCount,
  formatEntries,
  formatMilliseconds,
  type QueueView,
} from "./demo_bar.ts";
import { type DemoClient, type DemoEvent, type DemoSnapshot, type DemoVolume, pause } from "./demo_client.ts";
import type { Screen } from "./demo_screen.ts";

/** How often the queue is looked at: as often as an eye follows. */
const LOOK_MS = 50;
/** How many of the marker's places are kept to be told. */
const PLACES_MAX = 16;

/** What the watcher draws besides the queue itself. */
interface Marker {
  readonly sequence: number;
  entriesAhead: number;
  bytesAhead?: number;
  sealedAfterMs?: number;
}

export class Watch {
  #marker?: Marker;
  /** Entries ahead of the marker, as they went down. */
  readonly #places: number[] = [];

  constructor(private readonly screen: Screen) {}

  /** Draws the queue of the volume's pool until `ended` is aborted; `share` is how much of the file is written. */
  async follow(
    client: DemoClient,
    volume: DemoVolume,
    share: () => number,
    ended: AbortSignal,
    signal: AbortSignal,
  ): Promise<void> {
    if (!this.screen.live) return;
    let first: number | undefined;
    while (!ended.aborted) {
      const { sequenceAppended, sequenceFlushed } = await client.getPool(volume.poolId, signal);
      first ??= sequenceFlushed;
      const view = { sequenceFirst: first, sequenceFlushed, sequenceAppended };
      this.screen.draw((display) => drawQueue(this.#mark(view), this.#describe(share()), display));
      await pause(LOOK_MS, signal);
    }
  }

  /** The marker is in the queue. */
  onMarker({ sequence, progress: { entriesAhead, bytesAhead } }: DemoSnapshot): void {
    this.#marker = { sequence, entriesAhead, bytesAhead };
    this.#places.push(entriesAhead);
    const ahead = entriesAhead === 0
      ? "nothing is"
      : `${formatEntries(entriesAhead)}, ${formatBytes(bytesAhead)} are`;
    this.screen.say(`Marker ${formatCount(sequence)} is committed: ${ahead} ahead of it`);
  }

  /** The marker has moved. */
  onProgress({ data: { entriesAhead, bytesAhead } }: DemoEvent): void {
    if (this.#marker === undefined || entriesAhead === undefined || bytesAhead === undefined) return;
    Object.assign(this.#marker, { entriesAhead, bytesAhead });
    if (this.#places.length < PLACES_MAX) this.#places.push(entriesAhead);
  }

  /** Nothing is ahead of the marker any more. */
  onSealed(sealedAfterMs: number): void {
    if (this.#marker !== undefined) Object.assign(this.#marker, { entriesAhead: 0, sealedAfterMs });
    if (this.#places.at(-1) !== 0) this.#places.push(0);
    const places = this.#places.map(formatCount).join(" → ");
    this.screen.say(
      `Sealed ${formatMilliseconds(sealedAfterMs)} after the request; entries ahead of the marker: ${places}`,
    );
  }

  #mark(view: QueueView): QueueView {
    return this.#marker === undefined ? view : { ...view, sequenceMarker: this.#marker.sequence };
  }

  #describe(share: number): string {
    const file = `file ${Math.floor(100 * share)} %`;
    if (this.#marker === undefined) return file;
    const { entriesAhead, bytesAhead = 0, sealedAfterMs } = this.#marker;
    const place = sealedAfterMs === undefined
      ? `${formatEntries(entriesAhead)}, ${formatBytes(bytesAhead)} ahead`
      : `sealed after ${formatMilliseconds(sealedAfterMs)}`;
    return `◆ ${place} · ${file}`;
  }
}
