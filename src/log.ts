/**
 * The log: structured, one JSON object a line, on standard error. Neither bodies nor tokens nor values of the environment
 * are ever given to it.
 */

import {
  configure,
  dispose,
  getLogger,
  getStreamSink,
  jsonLinesFormatter,
  type Logger,
} from "@logtape/logtape";
import type { Config } from "./config.ts";

/** Starts the log; dispose of it to write out what is buffered. */
export async function startLog(
  { logLevel }: Pick<Config, "logLevel">,
): Promise<AsyncDisposable & { logger: Logger }> {
  // Not Deno.stderr.writable itself: the sink closes its stream at the end, and standard error stays open.
  const stderr = new WritableStream<Uint8Array>({ write: writeAll });
  await configure({
    reset: true,
    sinks: { stderr: getStreamSink(stderr, { formatter: jsonLinesFormatter }) },
    loggers: [
      { category: "snapmark", sinks: ["stderr"], lowestLevel: logLevel },
      { category: ["logtape", "meta"], sinks: ["stderr"], lowestLevel: "warning" },
    ],
  });
  return { logger: getLogger("snapmark"), [Symbol.asyncDispose]: () => dispose() };
}

/** What the log says of a fault; a stack names files of the program only. */
export function describeFault(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { error: String(error) };
  return {
    error: error.message,
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: String((error.cause as Error).message ?? error.cause) }),
  };
}

async function writeAll(chunk: Uint8Array): Promise<void> {
  for (let written = 0; written < chunk.length;) written += await Deno.stderr.write(chunk.subarray(written));
}
