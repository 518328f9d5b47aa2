/**
 * What a load generator sends: one kind of request, to LBAs in one order, as bytes ready for the socket.
 *
 * Contents are random, so nothing can compress them. Each body is a slice of one random buffer at another place, so that
 * requests differ at no cost.
 */

const BLOCK_RANDOM_BYTES = 65_536;
const HEAD_BYTES_MAX = 1_024;
/** How much longer than a body the random buffer is: so many different bodies there are. */
const SPARE_BYTES = 65_536;

/** Serializable: a generator is a process of its own and gets it as an argument. */
export interface LoadPlan {
  /** Without a slash at its end. */
  readonly url: string;
  readonly token: string;
  readonly method: "GET" | "PUT";
  readonly volumes: readonly string[];
  /** Blocks of each volume. */
  readonly blockCount: number;
  readonly blocksPerRequest: number;
  readonly blockSizeBytes: number;
  readonly order: "random" | "sequential" | "stride";
  readonly strideBlocks: number;
  /** Where an order other than `random` begins. */
  readonly firstStep: number;
}

/** How far apart the LBAs are that a plan names, and how many there are. */
export function gridOf(plan: LoadPlan): { stepBlocks: number; stepCount: number } {
  const stepBlocks = plan.order === "stride" ? plan.strideBlocks : plan.blocksPerRequest;
  return { stepBlocks, stepCount: Math.floor(plan.blockCount / stepBlocks) };
}

/** Path and query of a plan's requests, in the part before the LBA and the part behind it. */
export function pathOf(plan: LoadPlan, volume: string): { before: string; behind: string } {
  const query = plan.method === "GET" ? `?count=${plan.blocksPerRequest}` : "";
  return { before: `/volumes/${volume}/blocks/`, behind: query };
}

/** Makes a plan's requests, one after the other. */
export class RequestMaker {
  readonly #bodyBytes: number;
  readonly #random: Uint8Array;
  readonly #encoder = new TextEncoder();
  readonly #tail: string;
  #step: number;

  constructor(private readonly plan: LoadPlan) {
    this.#bodyBytes = plan.method === "PUT" ? plan.blocksPerRequest * plan.blockSizeBytes : 0;
    this.#random = makeRandomBytes(this.#bodyBytes === 0 ? 0 : this.#bodyBytes + SPARE_BYTES);
    this.#step = plan.firstStep;
    this.#tail = [
      " HTTP/1.1",
      `Host: ${new URL(plan.url).host}`,
      `Authorization: Bearer ${plan.token}`,
      ...(plan.method === "PUT"
        ? ["Content-Type: application/octet-stream", `Content-Length: ${this.#bodyBytes}`]
        : []),
      "",
      "",
    ].join("\r\n");
  }

  /** A buffer that {@linkcode RequestMaker.make} can fill: each connection has its own. */
  createBuffer(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(HEAD_BYTES_MAX + this.#bodyBytes);
  }

  /** Makes the next request in `buffer` and answers the part of it that was filled. */
  make(buffer: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    const { plan } = this;
    const { before, behind } = pathOf(plan, plan.volumes[Math.floor(Math.random() * plan.volumes.length)]);
    const head = `${plan.method} ${before}${this.#nextLba()}${behind}${this.#tail}`;
    const { written } = this.#encoder.encodeInto(head, buffer);
    if (this.#bodyBytes > 0) {
      const start = Math.floor(Math.random() * SPARE_BYTES);
      buffer.set(this.#random.subarray(start, start + this.#bodyBytes), written);
    }
    return buffer.subarray(0, written + this.#bodyBytes);
  }

  #nextLba(): number {
    const { stepBlocks, stepCount } = gridOf(this.plan);
    const step = this.plan.order === "random"
      ? Math.floor(Math.random() * stepCount)
      : this.#step++ % stepCount;
    return step * stepBlocks;
  }
}

/** Random bytes, more than the platform gives at once. */
export function makeRandomBytes(sizeBytes: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(sizeBytes);
  for (let start = 0; start < sizeBytes; start += BLOCK_RANDOM_BYTES) {
    crypto.getRandomValues(bytes.subarray(start, start + BLOCK_RANDOM_BYTES));
  }
  return bytes;
}
