/** Edges and gaps, each once, and no more of them than the limits allow. */
import { type BlobKey, type Digest, hexOf } from '@large-payload/core';
import type { Edge } from '../edge.js';
import type { ExtractLimits } from './limits.js';

export interface Extraction {
  /** Distinct. */
  readonly edges: Edge[];
  /** Why something may have been missed, for the operator; distinct. Empty: nothing was. */
  readonly gaps: string[];
}

export const tooMuch =
  'too much to search in one message: what it holds is not all known (nested or packed too deep, or too many digests)';
const moreGaps = 'there are more reasons than are listed';
const maxGapCharacters = 300;

export class Findings {
  readonly #limits: ExtractLimits;
  readonly #edges = new Map<string, Edge>();
  readonly #gaps = new Set<string>();
  /** `{digest}{metadata digest}` of keys that were read, in hexadecimal digits. */
  readonly #keys = new Set<string>();

  constructor(limits: ExtractLimits) {
    this.#limits = limits;
  }

  add(edge: Edge): void {
    const id = `${edge.digest} ${edge.namespace ?? ''}`;
    if (this.#edges.has(id)) return;
    if (this.#edges.size >= this.#limits.edges) this.gap(tooMuch);
    else this.#edges.set(id, edge);
  }

  addKey({ digest, metadataDigest, namespace }: BlobKey): void {
    this.add({ digest, namespace });
    if (this.#keys.size < this.#limits.edges) this.#keys.add(hexOf(digest) + hexOf(metadataDigest));
  }

  /** Whether a key with these two ends was read. */
  hasKeyOf(digest: Digest, metadataDigest: Digest): boolean {
    return this.#keys.has(hexOf(digest) + hexOf(metadataDigest));
  }

  gap(reason: string): void {
    const text = reason.length > maxGapCharacters ? `${reason.slice(0, maxGapCharacters)}…` : reason;
    if (this.#gaps.has(text)) return;
    this.#gaps.add(this.#gaps.size + 1 < this.#limits.gaps ? text : moreGaps);
  }

  result(): Extraction {
    return { edges: [...this.#edges.values()], gaps: [...this.#gaps] };
  }
}

/** As texts of people's payloads may be shown. */
export function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 80));
}
