/**
 * The open map: what one process remembers of a pool's volumes and of the segments of their open epochs, so that most
 * appends need not ask.
 *
 * Invariant, *one lock* (8): what is remembered is right as long as the pool's map version is the one it was learnt at.
 * Allocation only adds rows, so it leaves the version alone: what another process mapped is missing here and is looked
 * up. Everything else raises the version, and {@linkcode OpenMap.syncTo}, called under the lock, forgets all.
 *
 * Nothing is remembered before it is committed. Bounded: full, it forgets all and learns again.
 */

import type { SegmentRef } from "./segment.ts";

/** A volume as appends need it. */
export interface OpenVolume {
  readonly volumeId: string;
  readonly blockCount: number;
  readonly timelineId: number;
  readonly epoch: number;
  /** The open epoch's segments, by slot; not all of them. */
  readonly segments: Map<number, SegmentRef>;
}

/** A slot of a volume's open epoch, and the segment it is mapped to. */
export interface OpenSlot {
  readonly volume: OpenVolume;
  readonly slot: number;
  readonly segment: SegmentRef;
}

export class OpenMap {
  #mapVersion = -1;
  #slotCount = 0;
  readonly #volumes = new Map<string, OpenVolume>();

  constructor(private readonly slotsMax: number) {}

  /** Forgets everything that was learnt at another map version than this one. */
  syncTo(mapVersion: number): void {
    if (mapVersion === this.#mapVersion) return;
    this.forget();
    this.#mapVersion = mapVersion;
  }

  forget(): void {
    this.#volumes.clear();
    this.#slotCount = 0;
    this.#mapVersion = -1;
  }

  getVolume(volumeId: string): OpenVolume | undefined {
    return this.#volumes.get(volumeId);
  }

  /** Remembers what a committed transaction has read or mapped. */
  remember(volumes: Iterable<OpenVolume>, slots: OpenSlot[]): void {
    if (this.#slotCount + slots.length > this.slotsMax) return this.forget();
    for (const volume of volumes) this.#volumes.set(volume.volumeId, volume);
    for (const { volume, slot, segment } of slots) volume.segments.set(slot, segment);
    this.#slotCount += slots.length;
  }
}
