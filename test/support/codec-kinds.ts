/** Workflows whose input and result stand in the history in each of the ways that the codec server resolves. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { S3Client } from '@aws-sdk/client-s3';
import { externalStorage, LargePayloadCodec } from '@large-payload/temporal';
import type { TemporalServer, Versitygw } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { type DataConverter, ExternalStorage, type StorageDriver } from '@temporalio/common';
import { S3StorageDriver } from '@temporalio/external-storage-s3';
import { AwsSdkS3StorageDriverClient } from '@temporalio/external-storage-s3-aws-sdk';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Worker, type WorkflowBundle } from '@temporalio/worker';
import type { Order, Reviewed, reviewed } from '../fixtures/codec-workflows.ts';
import { countKinds, type FoundPayload, payloadsIn } from './history.ts';

const workflowsPath = fileURLToPath(new URL('../fixtures/codec-workflows.ts', import.meta.url));

/** `codec`: a claim of the Go codec; `driver`: our driver's reference; `s3`: the reference of Temporal's S3 driver. */
export const kinds = ['inline', 'codec', 'driver', 's3'] as const;
export type Kind = (typeof kinds)[number];

/** As support/history.ts calls what stands in the history. */
export const kindsInHistory = {
  inline: 'inline',
  codec: 'codec',
  driver: 'driver:large-payload',
  s3: 'driver:aws.s3driver',
} as const;

/** Serialized, of the large ones. */
export const largeBytes = 300_000;
const threshold = 128_000;

export interface Places {
  readonly temporal: TemporalServer;
  /** Of the service. */
  readonly url: string;
  readonly gateway: Versitygw;
  readonly s3: S3Client;
}

export interface RanWorkflow {
  readonly workflowId: string;
  readonly runId: string;
  readonly input: Order;
  readonly result: Reviewed;
  /** Of its history, as they stand there; and their number by kind (countKinds). */
  readonly payloads: readonly FoundPayload[];
  readonly counts: Record<string, number>;
}

export function orderOf(kind: Kind): Order {
  const title = `order of kind ${kind}`;
  return { title, text: kind === 'inline' ? 'short' : 'x'.repeat(largeBytes) };
}

export function converterFor(kind: Kind, { temporal, url, gateway, s3 }: Places): DataConverter {
  const { namespace } = temporal;
  if (kind === 'inline') return {};
  if (kind === 'codec') return { payloadCodecs: [new LargePayloadCodec({ url, namespace })] };
  if (kind === 'driver') return { externalStorage: externalStorage({ url, namespace }) };
  return { externalStorage: temporalS3Storage(gateway.bucket, s3) };
}

/** What `lps serve` needs to follow the references of Temporal's S3 driver. */
export function temporalBucketArgs(gateway: Versitygw): { args: string[]; env: Record<string, string> } {
  const { bucket, endpoint, region, accessKeyId, secretAccessKey } = gateway;
  return {
    args: ['--temporal-s3-bucket', bucket, '--s3-endpoint', endpoint, '--s3-region', region],
    env: { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey },
  };
}

/** Temporal's own. It is pinned to @temporalio/common 1.22, whose classes are others to the compiler. */
export function temporalS3Storage(bucket: string, s3: S3Client): ExternalStorage {
  const driver: unknown = new S3StorageDriver({ client: new AwsSdkS3StorageDriverClient(s3), bucket });
  return new ExternalStorage({ drivers: [driver as StorageDriver], payloadSizeThreshold: threshold });
}

let bundle: Promise<WorkflowBundle> | undefined;

/** The workflow `reviewed`, bundled once for all workers of a test file. */
export function reviewedBundle(): Promise<WorkflowBundle> {
  bundle ??= bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR', () => {}) });
  return bundle;
}

/** One workflow from start to end, with a worker of its own. */
export async function runReviewed(
  { address, namespace }: TemporalServer,
  dataConverter: DataConverter,
  input: Order,
): Promise<RanWorkflow> {
  const connection = await Connection.connect({ address });
  const nativeConnection = await NativeConnection.connect({ address });
  try {
    const [taskQueue, workflowId] = [randomUUID(), `reviewed-${randomUUID()}`];
    const worker = await Worker.create({
      connection: nativeConnection,
      namespace,
      taskQueue,
      workflowBundle: await reviewedBundle(),
      dataConverter,
    });
    const client = new Client({ connection, namespace, dataConverter });
    const handle = await client.workflow.start<typeof reviewed>('reviewed', { taskQueue, workflowId, args: [input] });
    const result = await worker.runUntil(handle.result());
    const history = await handle.fetchHistory();
    const [payloads, counts] = [[...payloadsIn(history)], countKinds(history, 0)];
    return { workflowId, runId: handle.firstExecutionRunId, input, result, payloads, counts };
  } finally {
    await nativeConnection.close();
    await connection.close();
  }
}
