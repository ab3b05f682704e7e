/**
 * Workflows that run on Temporal's own S3 driver go on under our plugin: a real S3 server, a real Temporal server, a real
 * service.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { GetObjectCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3';
import { Storage } from '@google-cloud/storage';
import { digestOf, openHttpStore } from '@large-payload/core';
import {
  gcsObjects,
  LargePayloadPlugin,
  type PluginMode,
  s3Objects,
  temporalGcsClaims,
  temporalS3Claims,
} from '@large-payload/temporal';
import {
  describeWith,
  openS3Client,
  startFakeGcs,
  startTemporal,
  startVersitygw,
} from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { type DataConverter, ExternalStorage, type StorageDriver } from '@temporalio/common';
import { GcsStorageDriver } from '@temporalio/external-storage-gcs';
import { S3StorageDriver } from '@temporalio/external-storage-s3';
import { AwsSdkS3StorageDriverClient } from '@temporalio/external-storage-s3-aws-sdk';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { movingOver } from './fixtures/move-over-workflows.ts';
import { countKinds } from './support/history.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const workflowsPath = fileURLToPath(new URL('./fixtures/move-over-workflows.ts', import.meta.url));
const thresholdBytes = 128_000;

Runtime.install({
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
  logger: new DefaultLogger('ERROR', () => {}),
});

const temporal = await startTemporal();
const gateway = temporal && (await startVersitygw());
const servers = temporal && gateway ? { temporal, gateway } : undefined;
if (servers === undefined) await temporal?.stop();
const workflowBundle = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR', () => {}) });

const bytes = (size: number): Uint8Array => new Uint8Array(randomBytes(size));
const results = [bytes(0), bytes(600_000), bytes(700_000)];
const activities = { produce: async (number: number): Promise<Uint8Array> => results[number] ?? new Uint8Array() };
export type MoveOverActivities = typeof activities;

describeWith(describe, 'moving over from Temporal’s S3 driver', servers, ({ temporal, gateway }) => {
  let service: RunningService;
  let s3: S3Client;
  let connection: Connection;
  let nativeConnection: NativeConnection;

  beforeAll(async () => {
    service = await startService();
    s3 = await openS3Client(gateway);
    connection = await Connection.connect({ address: temporal.address });
    nativeConnection = await NativeConnection.connect({ address: temporal.address });
  });
  afterAll(async () => {
    await connection?.close();
    await nativeConnection?.close();
    s3?.destroy();
    await service?.stop();
    await gateway.stop();
    await temporal.stop();
  });

  /** As an application has it that has never heard of us. */
  function theirConverter(): DataConverter {
    const driver: unknown = new S3StorageDriver({
      client: new AwsSdkS3StorageDriverClient(s3),
      bucket: gateway.bucket,
    });
    // pinned to @temporalio/common 1.22, whose classes are others to the compiler; the shapes are the same
    return {
      externalStorage: new ExternalStorage({
        drivers: [driver as StorageDriver],
        payloadSizeThreshold: thresholdBytes,
      }),
    };
  }

  function newPlugin(mode: PluginMode, reads = true): LargePayloadPlugin {
    const claims = temporalS3Claims({ buckets: [gateway.bucket], read: s3Objects(s3, GetObjectCommand) });
    return new LargePayloadPlugin({ url: service.url, mode, ...(reads ? { readOnlyDrivers: [claims] } : {}) });
  }

  async function objectsInBucket(): Promise<string[]> {
    const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: gateway.bucket }));
    return Contents.map(({ Key }) => `${Key}`).sort();
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`replays their history, and goes on with our store (mode ${mode})`, async () => {
      const taskQueue = randomUUID();
      const [argument, attachment] = [bytes(500_000), bytes(800_000)];

      // before: client and worker with Temporal's driver
      const before = await Worker.create({
        connection: nativeConnection,
        taskQueue,
        workflowBundle,
        activities,
        dataConverter: theirConverter(),
      });
      const handle = await before.runUntil(async () => {
        const client = new Client({ connection, dataConverter: theirConverter() });
        const started = await client.workflow.start<typeof movingOver>('movingOver', {
          taskQueue,
          workflowId: randomUUID(),
          args: [argument],
        });
        await until('the first result', async () => {
          const { events } = await started.fetchHistory();
          const isWaiting = events?.some(({ activityTaskCompletedEventAttributes: done }) => done != null);
          return isWaiting && events?.at(-1)?.workflowTaskCompletedEventAttributes ? true : undefined;
        });
        return started;
      });
      const theirHistory = await handle.fetchHistory();
      expect(countKinds(theirHistory, thresholdBytes)).toEqual({ 'driver:aws.s3driver': 2 });
      const theirObjects = await objectsInBucket();

      // their history replays with ours, and not without the driver that reads their claims
      const plugin = newPlugin(mode);
      await Worker.runReplayHistory({ workflowBundle, plugins: [plugin] }, theirHistory, handle.workflowId);
      const blind = newPlugin(mode, false);
      await expect(Worker.runReplayHistory({ workflowBundle, plugins: [blind] }, theirHistory)).rejects.toThrow();

      // after: client and worker with the plugin; the worker replays what the other one did
      const client = new Client({ connection, plugins: [plugin] });
      const after = await Worker.create({
        connection: nativeConnection,
        taskQueue,
        workflowBundle,
        activities,
        plugins: [plugin],
      });
      const result = await after.runUntil(async () => {
        const same = client.workflow.getHandle<typeof movingOver>(handle.workflowId);
        await same.signal('attach', attachment);
        return same.result();
      });
      const expected = Buffer.concat(
        [argument, results[1] ?? '', attachment, results[2] ?? ''].map((part) => Buffer.from(part)),
      );
      expect(digestOf(result)).toBe(digestOf(expected));

      // what is new is ours: the signal, the second activity's result, the workflow's own
      const history = await handle.fetchHistory();
      const ours = mode === 'codec' ? 'codec' : 'driver:large-payload';
      expect(countKinds(history, thresholdBytes)).toEqual({ 'driver:aws.s3driver': 2, [ours]: 3 });
      expect(await objectsInBucket()).toEqual(theirObjects);
      const keys = (await keysOf(service)).join();
      for (const blob of [attachment, results[2] ?? bytes(0), expected]) expect(keys).toContain(digestOf(blob));
      for (const blob of [argument, results[1] ?? bytes(0)]) expect(keys).not.toContain(digestOf(blob));
      await Promise.all([plugin.close(), blind.close()]);
    });
  }
});

const gcs = await startFakeGcs({ memory: true });

describeWith(describe, 'claims of Temporal’s GCS driver', gcs, (gcs) => {
  afterAll(() => gcs.stop());

  it('are read with the client of the user’s own, also when there is nothing to read', async () => {
    const storage = new Storage({ apiEndpoint: gcs.endpoint, projectId: 'test' });
    const client = {
      save: async (bucket: string, name: string, data: Uint8Array) => storage.bucket(bucket).file(name).save(data),
      download: async (bucket: string, name: string) => (await storage.bucket(bucket).file(name).download())[0],
    };
    const theirs: unknown = new GcsStorageDriver({ client, bucket: gcs.bucket });
    const payload = { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data: bytes(500_000) };
    const target = { kind: 'workflow', namespace: 'default', type: 'ü b', id: 'order/1' } as const;
    const claims = await (theirs as StorageDriver).store({ target }, [payload]);
    const reader = temporalGcsClaims({ buckets: [gcs.bucket], read: gcsObjects(storage) });
    const [read] = await reader.retrieve({}, claims);
    expect(digestOf(read?.data ?? bytes(0))).toBe(digestOf(payload.data));
    await storage
      .bucket(gcs.bucket)
      .file(claims[0]?.claimData.object ?? '')
      .delete();
    const cold = temporalGcsClaims({ buckets: [gcs.bucket], read: gcsObjects(storage) });
    await expect(cold.retrieve({}, claims)).rejects.toMatchObject({ type: 'LargePayload.BLOB_NOT_FOUND' });
  });
});

async function keysOf(service: RunningService): Promise<string[]> {
  const store = openHttpStore({ url: service.url });
  const keys: string[] = [];
  for await (const { key } of store.list('/blobs/default/')) keys.push(key);
  await store.close?.();
  return keys;
}
