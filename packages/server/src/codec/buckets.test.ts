/** References of Temporal's own drivers, in real buckets, resolved as `lps serve` is configured to. */
import type { S3Client } from '@aws-sdk/client-s3';
import { Storage } from '@google-cloud/storage';
import { memoryStore } from '@large-payload/core';
import { describeWith, openS3Client, startFakeGcs, startVersitygw } from '@large-payload/test-components';
import type { StorageDriver } from '@temporalio/common';
import { GcsStorageDriver } from '@temporalio/external-storage-gcs';
import { S3StorageDriver } from '@temporalio/external-storage-s3';
import { AwsSdkS3StorageDriverClient } from '@temporalio/external-storage-s3-aws-sdk';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { byDriver, codecConfig, plain } from './codec-fixture.js';
import { type CodecConfig, type OpenedCodec, openCodec } from './configured.js';
import type { CodecCall } from './pipeline.js';
import type { Ownership } from './references.js';

const MiB = 1024 * 1024;
let opened: OpenedCodec | undefined;
afterEach(() => opened?.close());

/** What a driver of Temporal's stored comes back, is the namespace's own, and is missed in words when it is gone. */
async function expectResolved(
  config: Partial<CodecConfig>,
  theirs: StorageDriver,
  remove: () => Promise<void>,
): Promise<void> {
  opened = await openCodec({ ...codecConfig, ...config }, memoryStore());
  const { codec } = opened;
  const payloads = [plain(0), plain(1), plain(3 * MiB)];
  const references = await Promise.all(payloads.map((payload) => byDriver(theirs, payload, 'a b/ü')));
  const owners: Ownership[] = [];
  const call = (): CodecCall => ({
    signal: new AbortController().signal,
    hold: codec.answers.hold(),
    authorize: (owner) => void owners.push(owner),
  });
  const resolved = await codec.download([...references, ...references], call());
  const expected = payloads.map(({ data }) => Buffer.from(data ?? []).toString('base64'));
  expect(resolved.map(({ data }) => Buffer.from(data ?? []).toString('base64'))).toEqual([...expected, ...expected]);
  expect(owners).toEqual([{ namespaces: ['a b/ü'], everywhere: false }]);
  await remove();
  await expect(codec.download(references, call())).rejects.toMatchObject({ code: 'BLOB_NOT_FOUND', status: 424 });
}

const gateway = await startVersitygw();
describeWith(describe, 'references of Temporal’s S3 driver', gateway, (gateway) => {
  let s3: S3Client;
  beforeAll(async () => {
    s3 = await openS3Client(gateway);
    vi.stubEnv('AWS_ACCESS_KEY_ID', gateway.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', gateway.secretAccessKey);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    s3.destroy();
    await gateway.stop();
  });

  it('are resolved from the bucket that was named', async () => {
    const { bucket, endpoint: s3Endpoint, region: s3Region } = gateway;
    const theirs: unknown = new S3StorageDriver({ client: new AwsSdkS3StorageDriverClient(s3), bucket });
    const config = { temporalS3Buckets: ['another', bucket], s3Endpoint, s3Region };
    const { DeleteObjectCommand, ListObjectsV2Command } = await import('@aws-sdk/client-s3');
    await expectResolved(config, theirs as StorageDriver, async () => {
      const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }));
      for (const { Key } of Contents) await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
    });
  });
});

const gcs = await startFakeGcs({ memory: true });
describeWith(describe, 'references of Temporal’s GCS driver', gcs, (gcs) => {
  afterAll(() => gcs.stop());

  it('are resolved from the bucket that was named', async () => {
    const storage = new Storage({ apiEndpoint: gcs.endpoint, projectId: 'test' });
    const bucket = storage.bucket(gcs.bucket);
    const client = {
      save: async (_bucket: string, name: string, data: Uint8Array) => bucket.file(name).save(data),
      download: async (_bucket: string, name: string) => (await bucket.file(name).download())[0],
    };
    const theirs: unknown = new GcsStorageDriver({ client, bucket: gcs.bucket });
    const config = { temporalGcsBuckets: ['another', gcs.bucket], gcsEndpoint: gcs.endpoint };
    await expectResolved(config, theirs as StorageDriver, async () => {
      const [files] = await bucket.getFiles();
      for (const file of files) await file.delete();
    });
  });
});
