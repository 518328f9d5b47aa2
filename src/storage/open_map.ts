/**
 * The open map: what one process remembers of a pool's volumes, of the segments of their open epochs, and of the free list, so
 * that most appends need not ask.
 *
 * Invariant, *one lock* (8): what is remembered is right as long as the pool's map version is the one it was learnt at, in the
 * same life of the database.
 * Allocation only adds rows, so it leaves the version alone: what another process mapped is missing here and is looked
 * up. Everything else raises the version, and {@linkcode OpenMap.syncTo}, called where the head is known, forgets all.
 *
 * As long as nobody else has appended, more is known: that what is not remembered of a *whole* volume is not mapped, and which
 * segments are free. Who finds the head moved by another calls {@linkcode OpenMap.distrust}.
 *
 * A batch is remembered when it is planned, so that the next can be planned upon it; {@linkcode OpenMap.forget} it
 * when it fails, and with it all. Bounded: full, it forgets all and learns again.
 */

import type { FreeSegment } from "./free_list.ts";
import type { PoolHead } from "./pool.ts";
import type { SegmentRef } from "./segment.ts";
import type { OpenedEpoch } from "./timeline.ts";

/** A volume, or staged contents, as appends need it. */
export interface OpenVolume {
  readonly volumeId: string;
  /** Whose entries they are in the queue: its own, or for staged contents those of the volume they are for. */
  readonly entriesOf: string;
  readonly blockCount: number;
  readonly timelineId: number;
  readonly epoch: number;
  /** Takes its segments from this device only. */
  readonly deviceId?: string;
  /** The open epoch's segments, by slot; not all of them unless the volume is whole. */
  readonly segments: Map<number, SegmentRef>;
  isWhole: boolean;
}

/** A slot of a volume's open epoch, and the segment it is mapped to. */
export interface OpenSlot {
  readonly volume: OpenVolume;
  readonly slot: number;
  readonly segment: SegmentRef;
}

/** What a plan has learnt and decided. */
export interface Learnt {
  readonly volumes: OpenVolume[];
  readonly slots: OpenSlot[];
  /** What is left of the free list's start, in its order. */
  readonly free: FreeSegment[];
}

/** What of a head tells whether the map is still the same. */
type MapMoment = Pick<PoolHead, "life" | "mapVersion">;

export class OpenMap {
  /** The life and the map version at which all this was learnt. */
  #learntAt?: string;
  #slotCount = 0;
  readonly #volumes = new Map<string, OpenVolume>();
  #free: FreeSegment[] = [];

  constructor(private readonly slotsMax: number) {}

  /** Free segments, in the order in which they go out; there may be more. */
  get free(): FreeSegment[] {
    return this.#free;
  }

  /** Forgets everything that was learnt at another map version, or in another life, than the head's. */
  syncTo(head: MapMoment): void {
    const moment = toMoment(head);
    if (moment === this.#learntAt) return;
    this.forget();
    this.#learntAt = moment;
  }

  forget(): void {
    this.#volumes.clear();
    this.#free = [];
    this.#slotCount = 0;
    this.#learntAt = undefined;
  }

  /** Another process has appended: it may have mapped what is not remembered, and taken what was free. */
  distrust(): void {
    for (const volume of this.#volumes.values()) volume.isWhole = false;
    this.#free = [];
  }

  getVolume(volumeId: string): OpenVolume | undefined {
    return this.#volumes.get(volumeId);
  }

  /** Remembers what a plan has read, and what it will have mapped and taken. */
  remember({ volumes, slots, free }: Learnt): void {
    if (this.#slotCount + slots.length > this.slotsMax) return this.forget();
    for (const volume of volumes) this.#volumes.set(volume.volumeId, volume);
    for (const { volume, slot, segment } of slots) volume.segments.set(slot, segment);
    this.#slotCount += slots.length;
    this.#free = free;
  }

  /**
   * Goes on behind a snapshot by this process, which found the map at one version and left it at another: the epochs that it
   * has opened are empty. Whatever was learnt at a third version is forgotten at the next look.
   */
  openEpochs(found: MapMoment, left: MapMoment, opened: OpenedEpoch[]): void {
    if (toMoment(found) !== this.#learntAt) return;
    this.#learntAt = toMoment(left);
    for (const { volumeId, epoch } of opened) {
      const volume = this.#volumes.get(volumeId);
      if (volume === undefined) continue;
      this.#slotCount -= volume.segments.size;
      this.#volumes.set(volumeId, { ...volume, epoch, segments: new Map(), isWhole: true });
    }
  }
}

function toMoment({ life, mapVersion }: MapMoment): string {
  return `${life} ${mapVersion}`;
}
