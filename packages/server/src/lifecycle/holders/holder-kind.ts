/**
 * A kind of thing in Temporal that can hold claims: one file each, beside this one. A kind knows how to find all of its
 * holders and how to read one; what that means for blobs is mark.ts's business.
 */
import type { Edge } from '../edge.js';
import type { TemporalNamespace } from '../temporal-api.js';

export interface FoundHolder {
  /** Within its kind and namespace, for ever: `{workflow id}\n{run id}` for a run. */
  readonly id: string;
  /** A closed one never changes again. */
  readonly isClosed: boolean;
  /** By the cluster's clock, in ms since 1970; absent where a list does not say. */
  readonly startedAt?: number;
}

/** What was read of one holder. */
export interface Scan {
  readonly isClosed: boolean;
  /**
   * What it holds that was not there at the cursor; what was there is remembered. Of its mutable state: all that it holds
   * now; what was there before and is not here goes in time.
   */
  readonly edges: readonly Edge[];
  /** Where the next scan goes on; at most 1 kB. */
  readonly cursor: string;
  /** Why something may have been missed, for the operator; empty: nothing was. */
  readonly gaps: readonly string[];
}

export interface HolderKind {
  /** Kept in the catalog: never given to another kind. */
  readonly name: 'run' | 'schedule';
  /** All that the namespace lists now, in pages. A list may miss what was created within the visibility bound. */
  list(namespace: TemporalNamespace): AsyncIterable<readonly FoundHolder[]>;
  /** Reads one, from a cursor on. `undefined` when Temporal answers NotFound for its id, and for nothing else. */
  scan(namespace: TemporalNamespace, id: string, cursor: string | undefined): Promise<Scan | undefined>;
}
