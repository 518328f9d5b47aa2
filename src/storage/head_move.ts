/**
 * What the appender is told by whatever moves its pool's head beside it, so that it goes on knowing where that stands.
 */

import type { PoolHead } from "./pool.ts";
import type { OpenedEpoch } from "./timeline.ts";

/** Where something found the pool's head, under its lock, and where it left it. */
export interface HeadMove {
  readonly found: PoolHead;
  readonly left: PoolHead;
  /** The epochs that it opened, when that is all that it changed of the map. */
  readonly opened?: OpenedEpoch[];
}
