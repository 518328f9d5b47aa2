/**
 * What the appender is told by whatever moves its pool's head beside it, so that it goes on knowing where that stands.
 */

import type { PoolHead } from "./pool.ts";
import type { OpenedEpoch } from "./timeline.ts";

/** Where something found the pool's head, under its lock, where it left it, and which epochs it opened. */
export interface HeadMove {
  readonly found: PoolHead;
  readonly left: PoolHead;
  readonly opened: OpenedEpoch[];
}
