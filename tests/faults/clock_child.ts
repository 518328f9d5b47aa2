/**
 * A server whose clock jumps: an hour ahead with SIGHUP, an hour back with SIGUSR2. What is measured from one moment to the next
 * (`performance.now()`) goes on evenly, as it does where a machine's clock is set.
 */

const HOUR_MS = 3_600_000;
const RealDate = Date;
let aheadMs = 0;

globalThis.Date = class extends RealDate {
  constructor(...given: [] | [number | string | Date]) {
    super(...(given.length === 0 ? [RealDate.now() + aheadMs] : given) as [number]);
  }

  static override now(): number {
    return RealDate.now() + aheadMs;
  }
} as DateConstructor;

Deno.addSignalListener("SIGHUP", () => aheadMs += HOUR_MS);
Deno.addSignalListener("SIGUSR2", () => aheadMs -= HOUR_MS);

// Behind the clock: what these modules do when they are loaded goes by it.
const { readConfig } = await import("../../src/config.ts");
const { serve } = await import("../../src/commands/serve.ts");
await serve(readConfig(), { flusher: true });
Deno.exit(0);
