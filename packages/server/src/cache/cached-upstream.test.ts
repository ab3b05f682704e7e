import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type BlobStore, digestOf, keyFor, LpsError, memoryStore, readAll } from '@large-payload/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { NodeEvent } from '../nodes/read-leases.js';
import { type CachedUpstream, openCachedUpstream } from './cached-upstream.js';

const M = 60_000;

describe('the blobs of a cache node', () => {
  let memory: BlobStore;
  let asked: string[];
  /** What upstream says that it knows. */
  let asOf: bigint | undefined;
  let events: NodeEvent[];
  let isAway: boolean;
  let room: boolean;
  let touched: string[];
  let wake: () => void;
  let node: CachedUpstream;

  beforeEach(async () => {
    memory = memoryStore();
    [asked, events, touched] = [[], [], []];
    [asOf, isAway, room] = [0n, false, true];
    node = await open(M);
    await untilSo(() => node.lease.isFresh());
  });
  afterEach(async () => void (await node.close()));

  function open(maxStalenessMs: number): Promise<CachedUpstream> {
    const upstream: BlobStore = {
      ...memory,
      async get(key, options) {
        asked.push(`get${options?.range === undefined ? '' : ' range'}`);
        const found = await memory.get(key, options);
        return found && { ...found, info: { ...found.info, ...(asOf === undefined ? {} : { asOf }) } };
      },
      async head(key) {
        asked.push('head');
        return memory.head(key);
      },
    };
    return openCachedUpstream({
      upstream,
      cache: { memory: { maxBytes: 1e6 } },
      leases: (onEvent) => {
        wake = onEvent;
        return {
          async grant() {
            if (isAway) throw new LpsError('SERVICE_UNREACHABLE', 'away');
            return { newest: BigInt(events.length), leaseMs: maxStalenessMs };
          },
          events: async (after) => events.slice(Number(after)),
          end: async () => undefined,
        };
      },
      maxStalenessMs,
      touches: { hasRoom: () => room, add: (key) => touched.push(key) },
    });
  }

  async function untilSo(isSo: () => boolean): Promise<void> {
    while (!isSo()) await delay(1);
  }
  async function stored(): Promise<string> {
    const bytes = randomBytes(1000);
    const digest = digestOf(bytes);
    const key = keyFor('orders', digest, null);
    await memory.put(key, bytes, { digest, size: 1000 });
    return key;
  }
  async function read(key: string): Promise<boolean> {
    const found = await node.store.get(key);
    return found !== undefined && key.includes(digestOf(await readAll(found.body, 1e6)));
  }
  async function happens(key: string): Promise<void> {
    events.push({ id: BigInt(events.length + 1), kind: 'takedown', key, physicalKey: key });
    wake();
    await untilSo(() => node.lease.state().cursor === BigInt(events.length) && node.lease.isFresh());
  }

  it('are asked for once, and each use of what is kept is told', async () => {
    const key = await stored();
    for (let at = 0; at < 3; at += 1) expect(await read(key)).toBe(true);
    expect([asked, touched]).toEqual([['get'], [key, key]]);
  });

  it('are not kept from a replica that knows less than this node, or does not say what it knows', async () => {
    const key = await stored();
    await happens(await stored());
    for (const behind of [0n, undefined]) {
      asOf = behind;
      expect(await read(key)).toBe(true);
      expect(node.kept().memory.blobs).toBe(0);
    }
    asOf = 1n;
    expect(await read(key)).toBe(true);
    expect(node.kept().memory.blobs).toBe(1);
    expect(asked).toEqual(['get', 'get', 'get']);
  });

  it('are forgotten by an event, also while they are asked for', async () => {
    const key = await stored();
    await read(key);
    await happens(key);
    expect(node.kept().memory.blobs).toBe(0);
    const get = memory.get.bind(memory);
    asOf = 9n;
    memory.get = async (...args) => {
      const found = await get(...args);
      await happens(key);
      return found;
    };
    await expect(read(key)).rejects.toMatchObject({ code: expect.stringMatching(/TRY_AGAIN|BLOB_TAKEN_DOWN/) });
    expect(node.kept().memory.blobs).toBe(0);
  });

  it('are asked for upstream when no more uses can be told', async () => {
    const key = await stored();
    await read(key);
    room = false;
    expect(await read(key)).toBe(true);
    expect(asked).toEqual(['get', 'head']);
  });

  it('are asked for upstream, each time, when there is no lease', async () => {
    await node.close();
    node = await open(1500);
    await untilSo(() => node.lease.isFresh());
    const key = await stored();
    await read(key);
    isAway = true;
    await untilSo(() => !node.lease.isFresh());
    asked.length = 0;
    expect([await read(key), await read(key)]).toEqual([true, true]);
    expect(asked).toEqual(['head', 'head']);
    memory.head = async () => undefined;
    expect(await read(key)).toBe(false);
    expect(node.kept().memory.blobs).toBe(0);
  });

  it('are dropped when upstream says that they are gone', async () => {
    const key = await stored();
    for (const error of [new LpsError('BLOB_TAKEN_DOWN', 'gone'), undefined]) {
      await read(key);
      expect(node.kept().memory.blobs).toBe(1);
      memory.head = async () => {
        if (error !== undefined) throw error;
        return undefined;
      };
      await node.store.head(key).catch(() => undefined);
      expect(node.kept().memory.blobs).toBe(0);
    }
  });

  it('of version 1 are never kept, and none is once everything was forgotten by hand', async () => {
    const key = await stored();
    await read(key);
    node.clear();
    expect(node.kept().memory.blobs).toBe(0);
    await expect(node.store.get(`blobs/${digestOf(randomBytes(3))}`)).resolves.toBeUndefined();
    expect(asked).toEqual(['get', 'get']);
  });

  it('are not refused to a caller because upstream refuses the node', async () => {
    memory.get = async () => {
      throw new LpsError('UNAUTHENTICATED', 'who are you?');
    };
    await expect(node.store.get(await stored())).rejects.toMatchObject({ code: 'STORE_REFUSED' });
  });
});
