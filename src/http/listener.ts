/**
 * The listener: takes connections at one address, in plain or with a certificate that can be changed while it listens.
 *
 * The platform gives a listener its certificate for good. So a new one takes the old one's place: for the milliseconds in between
 * nobody is taken, and who is connected goes on with the old certificate.
 */

import type { Certificate } from "./certificate.ts";
import type { Delivery } from "./door.ts";

/** Where to listen; port 0 chooses a free one. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

type Handler = (request: Request, delivery: Delivery) => Response | Promise<Response>;

/** Times that the address is tried for a new certificate, and the pause in between. */
const TRIES_MAX = 50;
const PAUSE_MS = 20;

export class Listener {
  readonly #address: Address;
  #server: Deno.HttpServer;
  #certificate?: Certificate;
  /** Those whose place was taken, as long as they have connections. */
  readonly #former = new Set<Promise<void>>();

  /** @throws {Error} when the address cannot be had, or the certificate not be used. */
  constructor(address: Address, private readonly handler: Handler, certificate?: Certificate) {
    this.#server = listen(address, handler, certificate);
    const { port } = this.#server.addr as Deno.NetAddr;
    this.#address = { ...address, port };
    if (certificate !== undefined) this.#certificate = certificate;
  }

  get url(): string {
    const { hostname, port } = this.#server.addr as Deno.NetAddr;
    const scheme = this.#certificate === undefined ? "http" : "https";
    return `${scheme}://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  }

  /** Listens with another certificate. @throws {Error} when it cannot be used; then the former one stays. */
  async change(certificate: Certificate): Promise<void> {
    // On another port first: a pair that is not one must not cost the address.
    await listen({ ...this.#address, port: 0 }, this.handler, certificate).shutdown();
    const former = this.#server.shutdown();
    this.#former.add(former);
    void former.finally(() => this.#former.delete(former));
    this.#server = await this.#listenAgain(certificate);
    this.#certificate = certificate;
  }

  /** Takes no more connections, and ends when those that there are have their answers. */
  async shutdown(): Promise<void> {
    await Promise.all([this.#server.shutdown(), ...this.#former]);
  }

  async #listenAgain(certificate: Certificate): Promise<Deno.HttpServer> {
    for (let tries = 1;; tries++) {
      try {
        return listen(this.#address, this.handler, certificate);
      } catch (error) {
        if (tries === TRIES_MAX) throw error;
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  }
}

function listen({ host, port }: Address, handler: Handler, certificate?: Certificate): Deno.HttpServer {
  try {
    return Deno.serve({ hostname: host, port, onListen: () => {}, ...certificate }, handler);
  } catch (error) {
    const { message } = error as Error;
    const what = certificate !== undefined && isOfCertificate(error)
      ? "Cannot use the certificate, see SNAPMARK_TLS_CERT and SNAPMARK_TLS_KEY"
      : `Cannot listen on ${host}:${port}, see SNAPMARK_HOST and SNAPMARK_PORT`;
    throw new Error(`${what}: ${message}`, { cause: error });
  }
}

/** What is not PEM has a class of its own with the platform, a key of another certificate none. */
function isOfCertificate(error: unknown): boolean {
  return error instanceof Deno.errors.InvalidData || (error as Error).message.includes("KeyMismatch");
}
