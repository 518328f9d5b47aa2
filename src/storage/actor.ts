/**
 * On whose behalf something is done, as entries, audit records and limits need it.
 */

import type { KeyClaim } from "./idempotency.ts";

export interface Actor {
  readonly clientId: string;
  readonly clientName: string;
  /** Entries of a higher priority are flushed earlier. */
  readonly priority: number;
  /** By which front door and command the request came, for the audit: `http POST /snapshots`. */
  readonly origin: string;
  /** Of the idempotency key that the request came with. */
  readonly claim?: KeyClaim;
}

/** The system itself, which creates the first pool. */
export const SYSTEM: Actor = {
  clientId: "00000000-0000-7000-8000-000000000000",
  clientName: "system",
  priority: 0,
  origin: "start",
};
