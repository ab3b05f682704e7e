import { randomBytes } from 'node:crypto';
import { type BlobStore, LpsError, memoryStore } from '@large-payload/core';
import { ApplicationFailure, type Payload, StorageDriverClaim } from '@temporalio/common';
import { ExternalStorageRunner } from '@temporalio/common/lib/internal-non-workflow/index.js';
import { describe, expect, it } from 'vitest';
import { externalStorage, LargePayloadDriver } from './driver.js';
import { parseClaimData } from './driver-claim.js';

function plain(size: number): Payload {
  return { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data: new Uint8Array(randomBytes(size)) };
}

const target = { kind: 'workflow', namespace: 'orders' } as const;

describe('the driver', () => {
  it('works as the SDK uses it', async () => {
    const runner = new ExternalStorageRunner(externalStorage({ store: memoryStore() }));
    const [fits, tooLarge] = [plain(127_000), plain(128_000)];
    const stored = await runner.store([tooLarge, fits, tooLarge], { target });
    expect(stored[0]).toEqual(stored[2]);
    expect(stored[1]).toBe(fits);
    expect(stored[0]?.data?.length).toBeLessThan(600);
    expect(Number(stored[0]?.externalPayloads?.[0]?.sizeBytes)).toBeGreaterThan(128_000);
    expect(await runner.retrieve(stored)).toEqual([tooLarge, fits, tooLarge]);
  });

  it('makes the same claim for the same payload, in the namespace of its target', async () => {
    const payload = plain(1000);
    const claims = await Promise.all(
      [1, 2].map(async () => {
        const driver = new LargePayloadDriver({ store: memoryStore(), namespace: 'other' });
        const stored = [...(await driver.store({ target }, [payload])), ...(await driver.store({}, [payload]))];
        return stored.map(({ claimData }) => claimData);
      }),
    );
    expect(claims[0]).toEqual(claims[1]);
    const [inTarget, inOption] = claims[0] ?? [];
    expect(inTarget?.key).toMatch(/^\/blobs\/orders\//);
    expect(inOption?.key).toMatch(/^\/blobs\/other\//);
    expect(Object.values(inTarget ?? {}).every((value) => typeof value === 'string')).toBe(true);
    const bare = new LargePayloadDriver({ store: memoryStore() });
    await expect(bare.store({}, [payload])).rejects.toMatchObject({ type: 'LargePayload.INVALID_KEY' });
  });

  it('takes one permit for each distinct blob, and none inside another', async () => {
    const driver = new LargePayloadDriver({ store: memoryStore() });
    const items: unknown[] = [];
    let [held, nested] = [0, false];
    const limiter = {
      async permit<T>(item: unknown, operation: () => Promise<T>): Promise<T> {
        items.push(item);
        nested ||= held > 0;
        held += 1;
        const result = operation(); // what it takes at once, it takes inside the permit
        held -= 1;
        return result;
      },
    };
    const [a, b] = [plain(100), plain(200)];
    const claims = await driver.store({ target, limiter }, [a, b, a]);
    expect(items).toEqual([a, b]);
    items.length = 0;
    const copies = claims.map(({ claimData }) => new StorageDriverClaim({ ...claimData }));
    expect(await driver.retrieve({ limiter }, copies)).toEqual([a, b, a]);
    expect(items).toHaveLength(2);
    expect(items.every((item) => copies.includes(item as StorageDriverClaim))).toBe(true);
    expect(nested).toBe(false);
  });

  it('fails with the code as the type, and with a sibling’s failure when that aborted it', async () => {
    const full: BlobStore = {
      ...memoryStore(),
      put: async () => {
        throw new LpsError('BLOB_TOO_LARGE', 'no');
      },
    };
    const failing = new LargePayloadDriver({ store: full }).store({ target }, [plain(100)]);
    await expect(failing).rejects.toMatchObject({ type: 'LargePayload.BLOB_TOO_LARGE', nonRetryable: true });
    const sibling = ApplicationFailure.nonRetryable('its own', 'LargePayload.BLOB_TOO_LARGE');
    const driver = new LargePayloadDriver({ store: memoryStore() });
    await expect(driver.store({ target, abortSignal: AbortSignal.abort(sibling) }, [plain(100)])).rejects.toBe(sibling);
    const stopped = driver.store({ target, abortSignal: AbortSignal.abort() }, [plain(100)]);
    await expect(stopped).rejects.toMatchObject({ type: 'LargePayload.ABORTED', nonRetryable: false });
  });

  it('has a name that can be chosen, and a type that cannot', () => {
    const driver = new LargePayloadDriver({ store: memoryStore(), name: 'mine' });
    expect([driver.name, driver.type]).toEqual(['mine', 'large-payload']);
    expect(new LargePayloadDriver({ store: memoryStore() }).name).toBe('large-payload');
    expect(() => new LargePayloadDriver({ store: memoryStore(), name: '' })).toThrow(LpsError);
    expect(externalStorage({ store: memoryStore() }).payloadSizeThreshold).toBe(128_000);
  });
});

describe('claim data', () => {
  it('is read strictly', async () => {
    const [claim] = await new LargePayloadDriver({ store: memoryStore() }).store({ target }, [plain(100)]);
    const good = claim?.claimData ?? {};
    expect(parseClaimData(good)).toMatchObject({ size: 100, key: good.key });
    const { size: _, ...withoutSize } = good;
    const bad: Record<string, string>[] = [
      {},
      withoutSize,
      { ...good, version: '2' },
      { ...good, extra: '' },
      ...['-1', '01', '1e3', '', ' 5', '9007199254740993'].map((size) => ({ ...good, size })),
      { ...good, key: `${good.key}x` },
      { ...good, key: good.key?.replace('/orders/', '/../') ?? '' },
      { ...good, metadata: '*' },
      { ...good, metadata: Buffer.from('[]').toString('base64') },
      { ...good, metadata: Buffer.from('{').toString('base64') },
      { ...good, metadata: Buffer.from([0xff]).toString('base64') },
    ];
    for (const data of bad) {
      expect(() => parseClaimData(data), JSON.stringify(data)).toThrow(
        expect.objectContaining({ code: 'INVALID_CLAIM' }),
      );
    }
  });
});
