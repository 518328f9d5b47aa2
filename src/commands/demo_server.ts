/**
 * Which server the demo plays on: the one it is given, the one that runs already, or one of its own.
 *
 * A server of its own listens on a free port of this machine, keeps its data in a temporary directory (or in the
 * database that DATABASE_URL names), and is gone when the demo is over.
 */

import { z } from "zod";
import type { Config } from "../config.ts";
import { findHome } from "../database/embedded/home.ts";
import { findAdminToken } from "../token.ts";
import { startServer } from "./serve.ts";

/** How long a server may take to say that it is ready. */
const PROBE_MS_MAX = 2_000;

const Ready = z.object({ ready: z.literal(true), flusher: z.string() });

export interface DemoServer {
  /** Without a slash at its end. */
  readonly url: string;
  readonly token: string;
  /** `a server of its own`, or the like. */
  readonly description: string;
  /** Whether all that it keeps is gone with it. */
  readonly temporary: boolean;
}

/** Finds the server at `url`, or one that runs where the configuration says, or starts one that ends with `resources`. */
export async function findServer(
  resources: AsyncDisposableStack,
  config: Config,
  url: string | undefined,
  signal: AbortSignal,
): Promise<DemoServer> {
  const running = url === undefined ? await findRunning(config, signal) : parseUrl(url);
  if (running === undefined) return await startOwn(resources, config, signal);
  if (config.adminToken === undefined && !isLocal(running)) {
    throw new Error("Cannot play there: set SNAPMARK_ADMIN_TOKEN to that server's token");
  }
  const { token, place } = await findAdminToken(config);
  return {
    url: running,
    token,
    description: `a running server, with the token from ${place}`,
    temporary: false,
  };
}

function parseUrl(url: string): string {
  const parsed = URL.parse(url);
  if (parsed === null || !/^https?:$/.test(parsed.protocol)) {
    throw new Error("Cannot play there: expected --url to start with http:// or https://");
  }
  return (parsed.origin + parsed.pathname).replace(/\/+$/, "");
}

/** Only a server on this machine can be the one whose token lies in the data directory. */
function isLocal(url: string): boolean {
  return ["127.0.0.1", "[::1]", "localhost"].includes(new URL(url).hostname);
}

/** The URL of the server at the configured address, if one is ready there. */
async function findRunning({ host, port }: Config, signal: AbortSignal): Promise<string | undefined> {
  if (port === 0) return undefined;
  const url = `http://${toClientHost(host)}:${port}`;
  try {
    const response = await fetch(`${url}/health/ready`, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(PROBE_MS_MAX)]),
    });
    return Ready.safeParse(await response.json()).success ? url : undefined;
  } catch {
    signal.throwIfAborted();
    return undefined;
  }
}

/** Where a client reaches a server that listens on `host`: "every address" is none to connect to. */
function toClientHost(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}

async function startOwn(
  resources: AsyncDisposableStack,
  config: Config,
  signal: AbortSignal,
): Promise<DemoServer> {
  const dataDir = await makeDataDirectory(resources);
  const own: Config = { ...config, dataDir, host: "127.0.0.1", port: 0, logLevel: "error" };
  const { server, token } = await startServer(resources, own, { flusher: true, signal });
  return {
    url: server.url,
    token: token.token,
    description: "a server of its own",
    temporary: config.databaseUrl === undefined,
  };
}

async function makeDataDirectory(resources: AsyncDisposableStack): Promise<string> {
  const directory = await Deno.realPath(await Deno.makeTempDir({ prefix: "snapmark-demo-" }));
  resources.defer(() => removeDataDirectory(directory));
  // PostgreSQL runs as another user when we are root, and has to get through.
  await Deno.chmod(directory, 0o711);
  return directory;
}

/** Removes it, and the database that had to go elsewhere because its user could not get through all the same. */
async function removeDataDirectory(directory: string): Promise<void> {
  const home = await findHome(directory).catch(() => undefined);
  if (home !== undefined && home.directory !== directory) {
    await Deno.remove(home.directory, { recursive: true });
  }
  await Deno.remove(directory, { recursive: true });
}
