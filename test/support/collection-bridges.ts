/**
 * Pins from before an upload until a mark has seen who holds the blob. With a grace of a second, no machine is quick enough
 * to hold in time what it has uploaded.
 */
import { digestOf, keyFor } from '@large-payload/core';
import { defaultPayloadConverter } from '@temporalio/common';
import type pg from 'pg';
import { expect } from 'vitest';
import { rowsIn } from './at-rest.ts';
import { request } from './blobs.ts';
import { until } from './until.ts';

export class Bridges {
  /** By their ids. */
  readonly #pins = new Map<string, { readonly key: string; readonly digest: string }>();
  readonly #pool: pg.Pool;
  readonly #namespace: string;

  /** Of a catalog, and of blobs. */
  constructor(pool: pg.Pool, namespace: string) {
    this.#pool = pool;
    this.#namespace = namespace;
  }

  /** For a value that a workflow or a schedule will carry, and nothing else. Returns its blob's digest. */
  async hold(port: number, value: unknown): Promise<string> {
    const { metadata, data } = defaultPayloadConverter.toPayload(value);
    const digest = digestOf(data ?? new Uint8Array());
    const key = keyFor(this.#namespace, digest, metadata ?? null);
    this.#pins.set(await this.pin(port, key), { key, digest });
    return digest;
  }

  /** For good. Returns the pin's id. */
  async pin(port: number, key: string): Promise<string> {
    const headers = { 'content-type': 'application/json' };
    const body = Buffer.from(JSON.stringify({ key, reason: 'a test' }));
    const { status, text } = await request(port, '/v3/pins', { method: 'POST', headers, body });
    expect(status, text).toBe(201);
    return (JSON.parse(text) as { id: string }).id;
  }

  /** From now on nothing but its holder keeps what was pinned by `hold`. */
  async unpin(port: number): Promise<void> {
    for (const [id, { key, digest }] of this.#pins) {
      await until(`a holder of ${digest}`, async () => (await this.#isSeen(digest)) || undefined, 60_000);
      expect([...(await rowsIn(this.#pool)).keys()], 'another key was pinned').toContain(key);
      expect((await request(port, `/v3/pins/${id}`, { method: 'DELETE' })).status).toBe(200);
      this.#pins.delete(id);
    }
  }

  async #isSeen(digest: string): Promise<boolean> {
    const edges = `SELECT FROM lps.edge WHERE digest = decode($1, 'hex') AND lost_at IS NULL LIMIT 1`;
    return (await this.#pool.query(edges, [digest.slice('sha256:'.length)])).rows.length > 0;
  }
}
