/**
 * The HTTP door as a server: listens, and on `stop` finishes what is in flight.
 */

import { createId } from "../storage/identifier.ts";
import { createApp } from "./app.ts";
import { type Certificate, type CertificateFiles, CertificateWatch } from "./certificate.ts";
import { ClientLoads } from "./client_load.ts";
import type { Door } from "./door.ts";
import { createFastLane } from "./fast_lane.ts";
import { type Address, Listener } from "./listener.ts";
import { TimeLimits } from "./time_limits.ts";

export interface HttpServer {
  readonly url: string;
  /** Looks whether there is a new certificate, as it does by itself every few seconds. */
  lookAtCertificate(): Promise<void>;
  /** Stops accepting and waits for what is in flight, at most `drainMs`. */
  stop(drainMs: number): Promise<void>;
}

/** What the server makes the door of. */
export interface GivenDoor extends Omit<Door, "loads" | "timeLimits" | "onBackground" | "stopping"> {
  /** Milliseconds of a clock that nobody sets: limits in time go by it. By default the process's own. */
  readonly now?: () => number;
}

/**
 * Listens on `host` and `port`; port 0 chooses a free one. In plain unless it is given a certificate, whose files it then goes on
 * looking at.
 *
 * @throws {Error} when the address cannot be had.
 */
export function serveHttp(
  { now = () => performance.now(), ...door }: GivenDoor,
  address: Address,
  tls?: { readonly files: CertificateFiles; readonly certificate: Certificate },
): HttpServer {
  const stopping = new AbortController();
  const background = new Set<Promise<void>>();
  const onBackground = (work: Promise<void>) => {
    background.add(work);
    void work.finally(() => background.delete(work));
  };
  const timeLimits = new TimeLimits(now);
  const loads = new ClientLoads(door.limits, now);
  const wholeDoor = { ...door, loads, timeLimits, onBackground, stopping: stopping.signal };
  const app = createApp(wholeDoor);
  const fastLane = createFastLane(wholeDoor);
  const listener = new Listener(
    address,
    (request, delivery) => fastLane(request, delivery) ?? app.fetch(request, delivery),
    tls?.certificate,
  );
  const watch = tls === undefined ? undefined : new CertificateWatch(
    tls.files,
    tls.certificate,
    (certificate) => listener.change(certificate),
    (error) => door.onFault(error, createId()),
  );
  return {
    url: listener.url,
    lookAtCertificate: async () => await watch?.look(),
    stop: async (drainMs) => {
      watch?.[Symbol.dispose]();
      stopping.abort();
      const timer = Promise.withResolvers<void>();
      const timeout = setTimeout(timer.resolve, drainMs);
      await Promise.race([Promise.all([listener.shutdown(), ...background]), timer.promise]);
      clearTimeout(timeout);
      timeLimits[Symbol.dispose]();
    },
  };
}
