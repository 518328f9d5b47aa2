/**
 * How much each client has under way in this process and how fast it comes, and what is refused for that.
 *
 * Every request behind the token enters, and leaves when its answer is made, or sent where that takes long. Refused is one that
 * comes too fast, by number or by bytes (`rate-limited`); one too many of a client's at a time, or bodies of its own that
 * are too much to be held at a time (`too-many-at-once`); and a body for which there is no room beside those of all clients
 * (`too-busy`). Bytes are those of requests' bodies and answers' bodies. A body is let in as long as the client has no debt, however
 * large it is, so that a small rate lets large bodies come, at their distance; bodies that are streamed wait in their middle.
 *
 * What is known of a client that is idle, and owes nothing, is what is known of any other: it is forgotten. So loads are bounded,
 * and if there are too many all the same, the one goes that has been there longest of those with nothing under way.
 */

import { StorageError } from "../errors.ts";
import type { Client, HttpLimits } from "./door.ts";
import { TokenBucket } from "./token_bucket.ts";

/** What is under way. */
interface Sum {
  requestsUnderWay: number;
  heldBytes: number;
}

/** What is kept for each client. */
interface Load extends Sum {
  readonly requests: TokenBucket;
  readonly bytes: TokenBucket;
}

/** How long a body that is streamed waits before it looks again. */
const PACE_MS = 100;

export class ClientLoads {
  readonly #loads = new Map<string, Load>();
  readonly #all = { requestsUnderWay: 0, heldBytes: 0 };

  /** @param now milliseconds of a clock that nobody sets. */
  constructor(private readonly limits: HttpLimits, private readonly now: () => number) {}

  /** How many clients are remembered, and what all of them have under way. */
  get figures(): { readonly clients: number } & Readonly<Sum> {
    return { clients: this.#loads.size, ...this.#all };
  }

  /** Lets a request in. @throws {StorageError} `rate-limited`, `too-many-at-once`. */
  enter(client: Client): Place {
    const { limits, now } = this;
    const load = this.#loads.get(client.clientId) ?? this.#remember(client.clientId);
    const { requestsPerSecondMax = limits.requestsPerSecondMax } = client;
    const { bytesPerSecondMax = limits.bytesPerSecondMax } = client;
    const nowMs = now();
    const waitMs = load.requests.waitMs(1, requestsPerSecondMax, nowMs);
    if (waitMs > 0) throw rateLimited(`${requestsPerSecondMax} requests`, waitMs);
    const debtMs = load.bytes.waitMs(0, bytesPerSecondMax, nowMs);
    if (debtMs > 0) throw rateLimited(`${bytesPerSecondMax} bytes`, debtMs);
    if (load.requestsUnderWay >= limits.requestsAtOnceMax) {
      throw tooManyAtOnce(`${limits.requestsAtOnceMax} requests`);
    }
    load.requests.take(1, requestsPerSecondMax, nowMs);
    load.requestsUnderWay += 1;
    this.#all.requestsUnderWay += 1;
    return new Place(load, this.#all, { limits, bytesPerSecondMax, now });
  }

  #remember(clientId: string): Load {
    if (this.#loads.size >= this.limits.clientLoadsMax) this.#forgetIdle();
    const load = {
      requests: new TokenBucket(),
      bytes: new TokenBucket(),
      requestsUnderWay: 0,
      heldBytes: 0,
    };
    this.#loads.set(clientId, load);
    return load;
  }

  #forgetIdle(): void {
    const nowMs = this.now();
    const resting = [...this.#loads].filter(([, { requestsUnderWay }]) => requestsUnderWay === 0);
    const idle = resting.filter(([, { requests, bytes }]) => requests.isFull(nowMs) && bytes.isFull(nowMs));
    for (const [clientId] of idle.length > 0 ? idle : resting.slice(0, 1)) this.#loads.delete(clientId);
  }
}

interface PlaceOptions {
  readonly limits: HttpLimits;
  readonly bytesPerSecondMax: number;
  readonly now: () => number;
}

/** A request that was let in. */
export class Place {
  #heldBytes = 0;
  #isLeft = false;

  constructor(
    private readonly load: Load,
    private readonly all: Sum,
    private readonly options: PlaceOptions,
  ) {}

  /** Counts bytes of bodies that come or go; there may be more than the rate gives. */
  charge(bytes: number): void {
    const { bytesPerSecondMax, now } = this.options;
    this.load.bytes.take(bytes, bytesPerSecondMax, now());
  }

  /** Keeps room in memory until it leaves. @throws {StorageError} `too-many-at-once`, `too-busy`. */
  hold(bytes: number): void {
    const { clientHeldBytesMax, heldBytesMax } = this.options.limits;
    if (this.load.heldBytes + bytes > clientHeldBytesMax) {
      throw tooManyAtOnce(`${clientHeldBytesMax} bytes of bodies`);
    }
    if (this.all.heldBytes + bytes > heldBytesMax) {
      throw new StorageError(
        "too-busy",
        `Cannot hold this body: expected at most ${heldBytesMax} of all bodies`,
      );
    }
    this.#count(bytes);
  }

  /** Gives back the room that it has kept so far. */
  release(): void {
    this.#count(-this.#heldBytes);
  }

  /** Waits as long as its client owes bytes, or until `signal`. */
  async outOfDebt(signal: AbortSignal): Promise<void> {
    const { bytesPerSecondMax, now } = this.options;
    for (;;) {
      const waitMs = this.load.bytes.waitMs(0, bytesPerSecondMax, now());
      if (waitMs === 0 || signal.aborted) return;
      await new Promise((resolve) => setTimeout(resolve, Math.min(waitMs, PACE_MS)));
    }
  }

  /** Ends it; once is enough. */
  leave(): void {
    if (this.#isLeft) return;
    this.#isLeft = true;
    this.release();
    this.load.requestsUnderWay -= 1;
    this.all.requestsUnderWay -= 1;
  }

  #count(bytes: number): void {
    this.#heldBytes += bytes;
    this.load.heldBytes += bytes;
    this.all.heldBytes += bytes;
  }
}

function rateLimited(rate: string, waitMs: number): StorageError {
  return new StorageError("rate-limited", `Cannot take this request: expected at most ${rate} a second`, {
    retryAfterSeconds: Math.ceil(waitMs / 1_000),
  });
}

function tooManyAtOnce(bound: string): StorageError {
  return new StorageError(
    "too-many-at-once",
    `Cannot take this request: expected at most ${bound} of a client at a time`,
  );
}
