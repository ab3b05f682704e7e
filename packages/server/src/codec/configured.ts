/** The codec server as `lps serve` configures it. All of Temporal's packages are loaded here, and only when it is on. */
import { type BlobStore, ClaimCheck } from '@large-payload/core';
import type { ReadObject } from '@large-payload/temporal';
import type { StorageDriver } from '@temporalio/common';
import type { Config } from '../config/settings.js';
import { loadCodecs } from './codec-modules.js';
import { type Codec, createCodec } from './pipeline.js';

export type CodecConfig = Pick<
  Config,
  | 'codecPreStorage'
  | 'codecPostStorage'
  | 'codecKeys'
  | 'codecKeyId'
  | 'codecDeterministic'
  | 'codecThresholdBytes'
  | 'codecClaims'
  | 'codecResponseBytes'
  | 'codecMemoryBytes'
  | 'temporalS3Buckets'
  | 'temporalGcsBuckets'
  | 's3Region'
  | 's3Endpoint'
  | 's3PathStyle'
  | 'gcsEndpoint'
  | 'v1Namespace'
>;

export interface OpenedCodec {
  readonly codec: Codec;
  /** Lets go of the connections to Temporal's buckets; the store stays open. */
  close(): Promise<void>;
}

/** Nobody at a page waits longer; a worker's 8 s are for workflow tasks, which time out. */
const deadlineMs = 30_000;

/** Over the service's own store, in this process. Throws CONFIG_INVALID. */
export async function openCodec(config: CodecConfig, store: BlobStore): Promise<OpenedCodec> {
  const { LargePayloadDriver } = await import('@large-payload/temporal');
  // nothing is kept in memory: a blob that was taken down is gone at once, and the store has a cache of its own
  const claimCheck = new ClaimCheck({ store, cacheBytes: 0, skipWindowMs: 0, concurrency: 64, deadlineMs });
  const closing: (() => void)[] = [];
  const drivers: StorageDriver[] = [new LargePayloadDriver({ claimCheck })];
  if (config.temporalS3Buckets.length > 0) drivers.push(await temporalS3(config, closing));
  if (config.temporalGcsBuckets.length > 0) drivers.push(await temporalGcs(config));
  const { v1Namespace } = config;
  const codec = createCodec({
    drivers,
    claimCheck,
    preStorage: await loadCodecs(config.codecPreStorage, config),
    postStorage: await loadCodecs(config.codecPostStorage, config),
    threshold: config.codecThresholdBytes,
    claims: config.codecClaims,
    ...(v1Namespace === undefined ? {} : { v1Namespace }),
    maxResponseBytes: config.codecResponseBytes,
    maxMemoryBytes: config.codecMemoryBytes,
    limitNames: { response: '--codec-response-bytes', memory: '--codec-memory-bytes' },
  });
  return {
    codec,
    async close() {
      for (const close of closing) close();
    },
  };
}

/** What Temporal's S3 driver stored, where our own store s3 would look. */
async function temporalS3(config: CodecConfig, closing: (() => void)[]): Promise<StorageDriver> {
  const { GetObjectCommand, S3Client } = await import('@aws-sdk/client-s3');
  const { s3Objects, temporalS3Claims } = await import('@large-payload/temporal');
  const { s3Endpoint: endpoint } = config;
  // off AWS the region is a word to sign with, and the bucket belongs into the path
  const away = process.env.AWS_REGION || process.env.AWS_DEFAULT_REGION || 'us-east-1';
  const region = config.s3Region ?? (endpoint === undefined ? undefined : away);
  const pathStyle = config.s3PathStyle ?? (endpoint === undefined ? undefined : true);
  const client = new S3Client({
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(pathStyle === undefined ? {} : { forcePathStyle: pathStyle }),
    maxAttempts: 1, // the reader repeats
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  closing.push(() => client.destroy());
  return temporalS3Claims(readerOptions(config.temporalS3Buckets, s3Objects(client, GetObjectCommand)));
}

async function temporalGcs({ temporalGcsBuckets, gcsEndpoint }: CodecConfig): Promise<StorageDriver> {
  const { Storage } = await import('@google-cloud/storage');
  const { gcsObjects, temporalGcsClaims } = await import('@large-payload/temporal');
  const storage = new Storage(gcsEndpoint === undefined ? {} : { apiEndpoint: gcsEndpoint });
  return temporalGcsClaims(readerOptions(temporalGcsBuckets, gcsObjects(storage)));
}

function readerOptions(
  buckets: readonly string[],
  read: ReadObject,
): Parameters<typeof import('@large-payload/temporal').temporalS3Claims>[0] {
  return { buckets, read, cacheBytes: 0, concurrency: 64, deadlineMs };
}
