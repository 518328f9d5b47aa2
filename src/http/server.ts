/**
 * The HTTP door as a server: listens, and on `stop` finishes what is in flight.
 */

import { createApp } from "./app.ts";
import type { Door } from "./door.ts";
import { createFastLane } from "./fast_lane.ts";

export interface HttpServer {
  readonly url: string;
  /** Stops accepting and waits for what is in flight, at most `drainMs`. */
  stop(drainMs: number): Promise<void>;
}

/**
 * Listens on `host` and `port`; port 0 chooses a free one.
 *
 * @throws {Error} when the address cannot be had.
 */
export function serveHttp(
  door: Omit<Door, "onBackground" | "stopping">,
  address: { host: string; port: number },
): HttpServer {
  const stopping = new AbortController();
  const background = new Set<Promise<void>>();
  const onBackground = (work: Promise<void>) => {
    background.add(work);
    void work.finally(() => background.delete(work));
  };
  const wholeDoor = { ...door, onBackground, stopping: stopping.signal };
  const app = createApp(wholeDoor);
  const fastLane = createFastLane(wholeDoor);
  const server = listen(address, (request) => fastLane(request) ?? app.fetch(request));
  const { hostname, port } = server.addr as Deno.NetAddr;
  return {
    url: `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`,
    stop: async (drainMs) => {
      stopping.abort();
      const timer = Promise.withResolvers<void>();
      const timeout = setTimeout(timer.resolve, drainMs);
      await Promise.race([Promise.all([server.shutdown(), ...background]), timer.promise]);
      clearTimeout(timeout);
    },
  };
}

function listen(
  { host, port }: { host: string; port: number },
  handler: (request: Request) => Response | Promise<Response>,
): Deno.HttpServer {
  try {
    return Deno.serve({ hostname: host, port, onListen: () => {} }, handler);
  } catch (error) {
    const { message } = error as Error;
    throw new Error(`Cannot listen on ${host}:${port}, see SNAPMARK_HOST and SNAPMARK_PORT: ${message}`, {
      cause: error,
    });
  }
}
