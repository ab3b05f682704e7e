import type { Edge } from '../edge.js';

/** What of a message holds claims. */
export interface Extracted {
  readonly edges: readonly Edge[];
  /** Why something in it may have been missed; empty: nothing was. */
  readonly gaps: readonly string[];
}

/** `typeName` is that of the decoded message: `temporal.api.history.v1.History`. */
export type Extract = (typeName: string, message: object) => Promise<Extracted>;

/** What was found in several messages, each edge and each gap once. */
export class Findings {
  readonly #edges = new Map<string, Edge>();
  readonly #gaps = new Set<string>();

  add({ edges, gaps }: Extracted): void {
    for (const edge of edges) this.#edges.set(`${edge.digest}\n${edge.namespace ?? ''}`, edge);
    for (const gap of gaps) this.#gaps.add(gap);
  }

  all(): Extracted {
    return { edges: [...this.#edges.values()], gaps: [...this.#gaps] };
  }
}
