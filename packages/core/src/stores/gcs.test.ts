import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { describeWith, type FakeGcs, startFakeGcs } from '@large-payload/test-components';
import { afterAll, describe, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { isLpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { type GcsStoreOptions, openGcsStore } from './gcs.js';

const files = await startFakeGcs();
const memory = await startFakeGcs({ memory: true });
await memory?.createBucket('versioned', { versioning: true });
afterAll(async () => {
  await files?.stop();
  await memory?.stop();
});

function optionsFor({ endpoint, bucket }: FakeGcs, more: Partial<GcsStoreOptions> = {}): GcsStoreOptions {
  return { endpoint, bucket, ...more };
}

function sample(size = 50_000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('tests', digest, null), bytes, expect: { digest, size } };
}

async function keysOf(store: BlobStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

const asFiles =
  'fake-gcs-server keeps objects as files: no part of a name over 255 bytes, doubled slashes are one; all names: in memory';

function testOnServer(name: string, options: GcsStoreOptions, skip: { test: string; reason: string }[] = []): void {
  const open = async () => {
    const store = await openGcsStore(options);
    return { store, close: async () => store.close?.() };
  };
  testBlobStore(name, open, { runner: { describe, it }, skip });
}

if (memory !== undefined) {
  testOnServer('gcs', optionsFor(memory));
  testOnServer('gcs, with versions and a prefix', optionsFor(memory, { bucket: 'versioned', prefix: 'lps' }));
}
if (files !== undefined) {
  const skip = [{ test: 'keeps names apart and returns them as they were', reason: asFiles }];
  testOnServer('gcs, as files', optionsFor(files, { prefix: files.prefix }), skip);
}

describeWith(describe, 'gcs on a server', memory, (server) => {
  it('keeps blobs at their keys, the leading slash included, as the Go service does', async () => {
    const store = await openGcsStore(optionsFor(server));
    const { key, bytes, expect } = sample(20);
    await store.put(key, bytes, expect);
    const url = `${server.endpoint}/storage/v1/b/${server.bucket}/o?prefix=${encodeURIComponent(key)}`;
    const { items } = (await (await fetch(url)).json()) as { items: { name: string }[] };
    assert.deepEqual(
      items.map(({ name }) => name),
      [key],
    );
    await store.close?.();
  });

  it('reports a bucket that is not there', async () => {
    await assert.rejects(openGcsStore(optionsFor(server, { bucket: 'no-such-bucket' })), (error: unknown) => {
      assert.ok(isLpsError(error, 'STORE_REFUSED'), String(error));
      assert.match(error.message, /bucket does not exist/);
      return true;
    });
  });

  it('deletes every generation of a key, and of no other', async () => {
    const store = await openGcsStore(optionsFor(server, { bucket: 'versioned', prefix: 'delete' }));
    assert.equal(store.can.versions, true);
    const { key, bytes, expect } = sample(1000);
    const neighbour = `${key}~0123456789abcdef`;
    await store.put(neighbour, bytes, expect);
    for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
    const list = `${server.endpoint}/storage/v1/b/versioned/o?versions=true&prefix=${encodeURIComponent(`delete${key}`)}`;
    const generations = async (): Promise<number> =>
      ((await (await fetch(list)).json()) as { items?: unknown[] }).items?.length ?? 0;
    assert.equal(await generations(), 4, 'three, and the neighbour');
    assert.equal(await store.countVersions?.(key), 3);
    assert.equal(await store.delete(key), true);
    assert.equal(await generations(), 1);
    assert.equal(await store.countVersions?.(key), 0);
    // it knows nothing of soft deletion, and lists what is live when it is asked for it
    assert.equal(await store.countVersions?.(neighbour, { withUnreachable: true }), 1);
    assert.equal(await store.head(key), undefined);
    assert.equal(await store.delete(key), false);
    assert.equal((await store.head(neighbour))?.size, 1000);
    await store.close?.();
  });

  it('leaves nothing of uploads that break off, nor holds up others meanwhile', async () => {
    const store = await openGcsStore(optionsFor(server));
    const { key, bytes, expect } = sample(1_000_000);
    const stalled = new Readable({ read() {} });
    stalled.push(bytes.subarray(0, 500_000));
    const put = store.put(key, stalled, expect);
    const other = sample(1_000_000);
    assert.equal((await store.put(other.key, Readable.from([other.bytes]), other.expect)).outcome, 'created');
    stalled.destroy();
    await assert.rejects(put);
    assert.deepEqual(await keysOf(store, key), []);
    await store.close?.();
  });

  it('tells what the settings of its bucket do', async () => {
    const store = await openGcsStore(optionsFor(server, { bucket: 'versioned' }));
    const settings = await store.settings?.();
    assert.equal(settings?.versioning, 'on');
    assert.equal(settings?.retention, false);
    assert.deepEqual(settings?.lifecycle, []);
    assert.equal(settings?.softDeleteDays, undefined);
    assert.ok(Math.abs(settings?.clockSkewMs ?? Number.NaN) <= 1000);
    await store.close?.();
  });
});
