/** That a holder in Temporal carries a claim of a blob. By digest, not by row: a blob that is adopted later has them as well. */
import type { Digest } from '@large-payload/core';

export interface Edge {
  readonly digest: Digest;
  /** The blob's namespace, from the key in the claim; absent where only a digest was found: then it holds in all of them. */
  readonly namespace?: string;
  /**
   * Found in what the holder may replace without a trace: a schedule's arguments, a heartbeat. It goes when a whole scan does
   * not find it any more, and some time after that.
   */
  readonly isMutable?: boolean;
}
