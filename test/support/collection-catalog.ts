/** What the catalog of a running service knows, asked for behind its back: nothing here is a use of a blob. */
import { parseKey } from '@large-payload/core';
import { queryCatalog } from './postgres.ts';

export interface CatalogBlob {
  readonly state: string;
  /** Where its object lies. */
  readonly physicalKey: string;
}

export interface Mark {
  readonly isComplete: boolean;
  readonly holders: number;
  readonly gaps: readonly string[];
  readonly startedAt: Date;
  readonly endedAt: Date;
}

export class CatalogView {
  readonly #dataDir: string;

  constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  /** All that ever were set, and why. */
  async brakes(): Promise<{ kind: string; reason: string }[]> {
    return queryCatalog(this.#dataDir, 'SELECT kind, reason FROM lps.brake ORDER BY id');
  }

  /** Blobs that somebody read while they were in quarantine. */
  async revivals(): Promise<number> {
    const [row] = await queryCatalog<{ count: number }>(this.#dataDir, 'SELECT count(*)::int FROM lps.revival');
    return row?.count ?? 0;
  }

  /** Marks that have ended, the newest first. */
  async marks(): Promise<Mark[]> {
    return queryCatalog<Mark>(
      this.#dataDir,
      `SELECT is_complete AS "isComplete", holders::int, gaps, started_at AS "startedAt", ended_at AS "endedAt"
      FROM lps.mark WHERE ended_at IS NOT NULL ORDER BY id DESC`,
    );
  }

  /** When a blob was last used, when the last holder was found to be gone, and what time it is. */
  async lastTimes(): Promise<{ readonly touchedAt: Date; readonly goneAt: Date; readonly now: Date }> {
    const [row] = await queryCatalog<{ touchedAt: Date; goneAt: Date; now: Date }>(
      this.#dataDir,
      `SELECT clock_timestamp() AS now, (SELECT max(touched_at) FROM lps.blob) AS "touchedAt",
        coalesce((SELECT max(gone_at) FROM lps.holder), now()) AS "goneAt"`,
    );
    if (row === undefined) throw new Error('no answer');
    return row;
  }

  /** How many blobs are in which state. */
  async states(): Promise<Record<string, number>> {
    const text = 'SELECT state::text, count(*)::int FROM lps.blob GROUP BY state';
    const rows = await queryCatalog<{ state: string; count: number }>(this.#dataDir, text);
    return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
  }

  /** Of keys without a prefix. */
  async blobs(keys: readonly string[]): Promise<Map<string, CatalogBlob>> {
    const wanted = keys.map((key) => parseKey(key));
    const rows = await queryCatalog<{
      namespace: string;
      digest: string;
      metadata: string;
      state: string;
      suffix: string;
    }>(
      this.#dataDir,
      `SELECT namespace, 'sha256:' || encode(digest, 'hex') AS digest, 'sha256:' || encode(metadata_digest, 'hex') AS metadata,
        state::text, physical_suffix AS suffix
      FROM lps.blob WHERE prefix = '' AND (namespace, digest) IN (
        SELECT namespace, decode(substr(digest, 8), 'hex') FROM unnest($1::text[], $2::text[]) wanted (namespace, digest))`,
      [wanted.map(({ namespace }) => namespace), wanted.map(({ digest }) => digest)],
    );
    return new Map(
      rows.map(({ namespace, digest, metadata, state, suffix }) => {
        const key = `/blobs/${namespace}/common/${digest}/${metadata}`;
        return [key, { state, physicalKey: suffix === '' ? key : `${key}~${suffix}` }];
      }),
    );
  }
}
