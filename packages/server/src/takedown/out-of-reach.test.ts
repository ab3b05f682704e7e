/** What receipts say that a takedown cannot erase, on servers where there are some, and by settings that no emulator has. */
import {
  type BlobStore,
  type BucketSettings,
  digestOf,
  keyFor,
  memoryStore,
  openAzureStore,
  openFileStore,
  openGcsStore,
  openS3Store,
} from '@large-payload/core';
import {
  describeWith,
  startAzurite,
  startFakeGcs,
  startVersitygw,
  tempDir,
  type Versitygw,
} from '@large-payload/test-components';
import { afterAll, describe, expect, it } from 'vitest';
import { outOfReach } from './out-of-reach.js';

const [s3, gcs, azurite] = await Promise.all([
  startVersitygw({ versioning: true }),
  startFakeGcs({ memory: true }),
  startAzurite(),
]);
afterAll(() => Promise.all([s3?.stop(), gcs?.stop(), azurite?.stop()]));

const always = ['Workers keep', 'Backups and', 'Downloads that', 'The claims'];

/** The beginning of each sentence, and all of them. */
async function said(store: BlobStore): Promise<{ about: string[]; text: string }> {
  const lines = await outOfReach(store);
  return { about: lines.map((line) => /^(\w+:|\w+ \w+)/.exec(line)?.[0] ?? line), text: lines.join('\n') };
}

function bucket(name: string, settings: BucketSettings): BlobStore {
  return { ...memoryStore(), name, settings: async () => settings };
}

describe('out of reach, whatever the store is', () => {
  it('are memory caches, backups, downloads, and names in histories and logs', async () => {
    expect((await said(memoryStore())).about).toEqual(always);
    const file = await openFileStore({ dir: tempDir('out-of-reach') });
    expect((await said(file)).about).toEqual(['What deleted', ...always]);
    await file.close?.();
  });
});

describe('out of reach, by the settings of a bucket', () => {
  const plain: BucketSettings = { versioning: 'off', softDeleteDays: 0, retention: false, lifecycle: [] };

  it.each([
    ['s3', ['Parts of', 'Copies in']],
    ['gcs', ['Copies in']],
    ['azure', ['Blocks of', 'Copies in']],
  ])('of a plain %s there is little', async (name, expected) => {
    expect((await said(bucket(name, plain))).about).toEqual([...expected, ...always]);
  });

  it.each(['gcs', 'azure'])('%s: how long deleted objects can be restored', async (name) => {
    const { about, text } = await said(bucket(name, { ...plain, softDeleteDays: 7 }));
    expect(about[0]).toBe('Soft delete');
    expect(text).toContain('the deleted objects for 7 days more');
    const both = await said(bucket(name, { ...plain, softDeleteDays: 0.5, versioning: 'on' }));
    expect(both.about.slice(0, 2)).toEqual(['Soft delete', 'Versions:']);
    expect(both.text).toContain('the deleted objects and their versions for one day more');
  });

  it.each(['s3', 'gcs', 'azure'])('%s: what the service may not ask, it does not take for harmless', async (name) => {
    const { about, text } = await said(bucket(name, {}));
    expect(about.filter((word) => ['Soft delete', 'Versions:', 'Retention:'].includes(word))).toEqual(
      name === 's3' ? ['Versions:', 'Retention:'] : ['Soft delete', 'Versions:', 'Retention:'],
    );
    expect(text).toContain('may not ask');
  });

  it('names what keeps objects from being deleted', async () => {
    expect((await said(bucket('s3', { ...plain, retention: true }))).text).toContain('the bucket has object lock');
    expect((await said(bucket('azure', { ...plain, retention: true }))).text).toContain('has an immutability policy');
  });

  it('leaves out parts of uploads where a rule of the whole bucket aborts them', async () => {
    const rule = (prefix: string) => ({ id: 'tidy', prefix, action: 'abort-uploads', afterDays: 1 }) as const;
    expect((await said(bucket('s3', { ...plain, lifecycle: [rule('')] }))).about).not.toContain('Parts of');
    expect((await said(bucket('s3', { ...plain, lifecycle: [rule('x/')] }))).about).toContain('Parts of');
  });

  it('fails when the bucket cannot be asked, rather than to keep silent', async () => {
    const away = { ...memoryStore(), name: 's3', settings: () => Promise.reject(new Error('away')) };
    await expect(outOfReach(away)).rejects.toThrow('away');
  });
});

describeWith(describe, 'out of reach, on a versioned S3 bucket', s3, (server: Versitygw) => {
  it('are versions of blobs that no name is known of', async () => {
    const { endpoint, region, bucket: name, accessKeyId, secretAccessKey } = server;
    const credentials = { accessKeyId, secretAccessKey };
    const store = await openS3Store({ endpoint, region, bucket: name, credentials });
    expect((await said(store)).about).toEqual(['Versions:', 'Parts of', 'Copies in', ...always]);
    await store.close?.();
  });
});

describeWith(describe, 'out of reach, on a GCS server', gcs, (server) => {
  it('are generations, and soft-deleted objects where the server does not tell', async () => {
    await server.createBucket('kept', { versioning: true });
    const store = await openGcsStore({ endpoint: server.endpoint, bucket: 'kept' });
    expect((await said(store)).about).toEqual(['Soft delete', 'Versions:', 'Copies in', ...always]);
    await store.close?.();
  });
});

describeWith(describe, 'out of reach, on an Azure server', azurite, (server) => {
  it('are soft-deleted blobs, for as many days as the account says', async () => {
    await server.keepDeleted(3);
    const store = await openAzureStore({ connectionString: server.connectionString, container: server.container });
    const bytes = Buffer.from('versions show in answers');
    const digest = digestOf(bytes);
    await store.put(keyFor('tests', digest, null), bytes, { digest, size: bytes.length });
    const { about, text } = await said(store);
    expect(about).toEqual(['Soft delete', 'Blocks of', 'Copies in', ...always]);
    expect(text).toContain('for 3 days more');
    await store.close?.();
  });
});
