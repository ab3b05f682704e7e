import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { StorageSharedKeyCredential } from '@azure/storage-blob';
import { type Azurite, describeWith, openContainer, startAzurite } from '@large-payload/test-components';
import { afterAll, describe, it, vi } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { isLpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { type AzureStoreOptions, openAzureStore } from './azure.js';
import { sharedKeyAuthorization } from './azure-signature.js';
import { openRawAzureStore } from './azure-store.js';

const azurite = await startAzurite();
afterAll(async () => {
  await azurite?.stop();
});

function optionsFor(
  { connectionString, container }: Azurite,
  more: Partial<AzureStoreOptions> = {},
): AzureStoreOptions {
  return { connectionString, container, ...more };
}

function sample(size = 50_000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('tests', digest, null), bytes, expect: { digest, size } };
}

async function bytesAt(store: BlobStore, key: string): Promise<Buffer | undefined> {
  const found = await store.get(key);
  return found && Buffer.from(await readAll(found.body, 1e9));
}

function testOnAzurite(name: string, options: AzureStoreOptions): void {
  const open = async () => {
    const store = await openAzureStore(options);
    return { store, close: async () => store.close?.() };
  };
  testBlobStore(name, open, { runner: { describe, it } });
}

if (azurite !== undefined) {
  testOnAzurite('azure', optionsFor(azurite));
  testOnAzurite('azure, in small blocks, with a prefix', optionsFor(azurite, { blockBytes: 65_536, prefix: 'lps/' }));
}

describeWith(describe, 'azure on a server', azurite, (server) => {
  async function withStore<T>(more: Partial<AzureStoreOptions>, run: (store: BlobStore) => Promise<T>): Promise<T> {
    const store = await openAzureStore(optionsFor(server, more));
    try {
      return await run(store);
    } finally {
      await store.close?.();
    }
  }

  it('keeps blobs at their keys, the leading slash included, as the Go service does', async () => {
    await withStore({}, async (store) => {
      const { key, bytes, expect } = sample(20);
      await store.put(key, bytes, expect);
      const container = await openContainer(server);
      const names: string[] = [];
      for await (const { name } of container.listBlobsFlat({ prefix: key })) names.push(name);
      assert.deepEqual(names, [key]);
      assert.deepEqual(await container.getBlobClient(key).downloadToBuffer(), bytes);
    });
  });

  it('has Azure refuse bytes that are not those that were meant', async () => {
    const container = await openContainer(server);
    const md5 = Buffer.alloc(16);
    // what the store's own requests rely on
    await assert.rejects(
      container.getBlockBlobClient('wrong').upload('x', 1, { blobHTTPHeaders: { blobContentMD5: md5 } }),
    );
  });

  it('leaves nothing readable of uploads that break off, and takes the blob afterwards', async () => {
    await withStore({ blockBytes: 100_000 }, async (store) => {
      for (const again of ['bytes', 'stream'] as const) {
        const { key, bytes, expect } = sample(1_000_000);
        const broken = Readable.from(
          (async function* () {
            yield bytes.subarray(0, 700_000);
            throw new Error('the sender went away');
          })(),
        );
        await assert.rejects(store.put(key, broken, expect), /the sender went away/);
        assert.equal(await store.head(key), undefined);
        const body = again === 'bytes' ? bytes : Readable.from([bytes]);
        assert.equal((await store.put(key, body, expect)).outcome, 'created');
        assert.deepEqual(await bytesAt(store, key), bytes);
      }
    });
  });

  /** An upload in blocks that has staged all but its last ones, and waits. */
  async function stalledPut(store: BlobStore, { key, bytes, expect }: ReturnType<typeof sample>) {
    const body = new Readable({ read() {} });
    // the last chunk is held back until the digest is known
    body.push(bytes.subarray(0, 900_000));
    body.push(bytes.subarray(900_000, 950_000));
    const put = store.put(key, body, expect);
    const blob = (await openContainer(server)).getBlockBlobClient(key);
    await vi.waitFor(
      async () => {
        assert.equal((await blob.getBlockList('uncommitted')).uncommittedBlocks?.length, 9);
      },
      { timeout: 30_000 },
    );
    const finish = () => {
      body.push(bytes.subarray(950_000));
      body.push(null);
      return put;
    };
    return { finish };
  }

  it('counts blocks that wait for the end of their upload, when that is asked for', async () => {
    await withStore({ blockBytes: 100_000 }, async (store) => {
      const blob = sample(1_000_000);
      const late = await stalledPut(store, blob);
      const counts = async () => [
        await store.countVersions?.(blob.key),
        await store.countVersions?.(blob.key, { withUnreachable: true }),
      ];
      assert.deepEqual(await counts(), [0, 1]);
      await late.finish();
      assert.deepEqual(await counts(), [1, 1]);
      await store.delete(blob.key);
      assert.deepEqual(await counts(), [0, 0]);
    });
  });

  it('lets the first of two uploads in blocks win, and tells the other that the blob exists', async () => {
    await withStore({ blockBytes: 100_000 }, async (store) => {
      const blob = sample(1_000_000);
      const late = await stalledPut(store, blob);
      assert.equal((await store.put(blob.key, Readable.from([blob.bytes]), blob.expect)).outcome, 'created');
      assert.equal((await late.finish()).outcome, 'exists');
      assert.deepEqual(await bytesAt(store, blob.key), blob.bytes);
    });
  });

  it('keeps the blocks of uploads of one blob apart, so that wrong ones get into no other', async () => {
    await withStore({ blockBytes: 100_000 }, async (store) => {
      const blob = sample(1_000_000);
      const right = await stalledPut(store, blob);
      const wrong = Readable.from(Array.from({ length: 10 }, () => Buffer.alloc(100_000, 'wrong')));
      const isMismatch = (error: unknown): boolean => isLpsError(error, 'DIGEST_MISMATCH');
      await assert.rejects(store.put(blob.key, wrong, blob.expect), isMismatch);
      assert.equal((await right.finish()).outcome, 'created');
      assert.deepEqual(await bytesAt(store, blob.key), blob.bytes);
    });
  });

  it('deletes a blob with its snapshots, and no other', async () => {
    await withStore({}, async (store) => {
      const { key, bytes, expect } = sample(1000);
      const neighbour = `${key}~0123456789abcdef`;
      await store.put(key, bytes, expect);
      await store.put(neighbour, bytes, expect);
      const container = await openContainer(server);
      await container.getBlobClient(key).createSnapshot();
      assert.equal(await store.countVersions?.(key), 2);
      assert.equal(await store.delete(key), true);
      assert.equal(await store.countVersions?.(key), 0);
      assert.equal(await store.countVersions?.(neighbour), 1);
      const left: string[] = [];
      for await (const { name } of container.listBlobsFlat({ prefix: key, includeSnapshots: true })) left.push(name);
      assert.deepEqual(left, [neighbour]);
      assert.equal(await store.delete(key), false);
    });
  });

  it('reports a container and a key that are not right', async () => {
    const refused = (error: unknown): boolean => isLpsError(error, 'STORE_REFUSED');
    await assert.rejects(openAzureStore(optionsFor(server, { container: 'no-such' })), refused);
    const connectionString = server.connectionString.replace(/AccountKey=..../, 'AccountKey=AAAA');
    await assert.rejects(openAzureStore(optionsFor(server, { connectionString })), refused);
  });

  it('tells what the settings of its container do', async () => {
    await server.keepDeleted(3);
    const settings = await withStore({}, async (store) => {
      const { key, bytes, expect } = sample(10);
      await store.put(key, bytes, expect);
      return store.settings?.();
    });
    assert.equal(settings?.versioning, 'off');
    assert.equal(settings?.softDeleteDays, 3);
    assert.equal(settings?.retention, false);
    assert.ok(Math.abs(settings?.clockSkewMs ?? Number.NaN) <= 1000);
  });

  it('is ready while its container is there', async () => {
    await server.createContainer('ready');
    const store = await openRawAzureStore(optionsFor(server, { container: 'ready' }));
    await store.ready?.();
    await (await openContainer(server, 'ready')).delete();
    // an answer of the moment before may be taken again
    await assert.rejects(store.put(sample().key, Buffer.from('x'), { digest: sample().expect.digest, size: 1 }));
    await store.close?.();
  });
});

describe('azure signature', () => {
  it('is the one of the Azure SDK', async () => {
    const credential = new StorageSharedKeyCredential('account', Buffer.from('the key').toString('base64'));
    const key = { account: 'account', sign: (text: string) => credential.computeHMACSHA256(text) };
    const date = 'Mon, 23 Nov 2026 06:00:00 GMT';
    for (const url of [
      'https://account.blob.core.windows.net/',
      "http://127.0.0.1:1/account/blobs/%2Fblobs%2Fa%2Bb%20%C3%BC'()!*~?comp=block&blockid=a%2Bb%3D%3D",
      'https://account.blob.core.windows.net/blobs?restype=container&comp=list&prefix=%2Fblobs%2F%25&Include=versions',
    ]) {
      for (const more of [
        {},
        { 'content-length': '0' },
        { 'content-length': '5', 'content-md5': 'x==', range: 'bytes=0-1' },
      ]) {
        const headers: Record<string, string> = {
          'content-type': 'application/octet-stream',
          'if-none-match': '*',
          'x-ms-version': '2023-11-03',
          'x-ms-blob-type': 'BlockBlob',
          'x-ms-blob-content-type': 'text/plain',
          'x-ms-date': date,
          ...more,
        };
        assert.equal(
          sharedKeyAuthorization({ method: 'PUT', url, headers }, key),
          await theirs(credential, url, headers),
        );
      }
    }
  });

  /** The SDK's own, with the date that it sets replaced by ours. */
  async function theirs(
    credential: StorageSharedKeyCredential,
    url: string,
    given: Record<string, string>,
  ): Promise<string | undefined> {
    const headers = new Map(Object.entries(given));
    const list = {
      get: (name: string) => headers.get(name.toLowerCase()),
      set: (name: string, value: string) =>
        name.toLowerCase() !== 'x-ms-date' && headers.set(name.toLowerCase(), value),
      headersArray: () => [...headers].map(([name, value]) => ({ name, value })),
    };
    const next = { sendRequest: async () => ({}) };
    const policy = credential.create(next as never, {} as never);
    await policy.sendRequest({ url, method: 'PUT', headers: list } as never);
    return headers.get('authorization');
  }
});
