/** The composition root of stores: the only place of the server that names concrete ones. */
import { join } from 'node:path';
import {
  type BlobStore,
  type FileStore,
  LpsError,
  memoryStore,
  openAzureStore,
  openFileStore,
  openGcsStore,
  openHttpStore,
  openS3Store,
} from '@large-payload/core';
import type { Config } from './config/settings.js';

type StoreSettings = Pick<
  Config,
  | 'store'
  | 'dataDir'
  | 's3Bucket'
  | 's3Region'
  | 's3Endpoint'
  | 's3PathStyle'
  | 's3StorageClass'
  | 's3Prefix'
  | 's3Encryption'
  | 's3KmsKeyId'
  | 's3ConditionalPut'
  | 's3Checksums'
  | 'gcsBucket'
  | 'gcsEndpoint'
  | 'gcsPrefix'
  | 'azureContainer'
  | 'azureAccount'
  | 'azureEndpoint'
  | 'azureConnectionString'
  | 'azurePrefix'
>;

/** A store, and its own housekeeping where it needs some. */
export type OpenedStore = BlobStore & Partial<Pick<FileStore, 'janitor'>>;

/** Where the file store lies in the data directory, beside the embedded database and the cache. */
export function fileStoreDir(dataDir: string): string {
  return join(dataDir, 'store');
}

/** The store that the settings name. Throws CONFIG_INVALID, and what opening it throws. */
export async function openStore(config: StoreSettings): Promise<OpenedStore> {
  switch (config.store) {
    case 'memory':
      return memoryStore();
    case 'file':
      return openFileStore({ dir: fileStoreDir(config.dataDir) });
    case 's3':
      return openS3Store(s3Options(config));
    case 'gcs':
      return openGcsStore(gcsOptions(config));
    case 'azure':
      return openAzureStore(azureOptions(config));
  }
}

/** A running service as a store. */
export async function openService(url: string, token?: string): Promise<BlobStore> {
  return openHttpStore({ url, ...(token === undefined ? {} : { token }) });
}

function s3Options(config: StoreSettings): Parameters<typeof openS3Store>[0] {
  const { s3Bucket, s3Region, s3Endpoint, s3PathStyle, s3StorageClass, s3Prefix } = config;
  if (s3Bucket === undefined) throw new LpsError('CONFIG_INVALID', 'store s3 needs a bucket');
  const encryption = s3Encryption(config);
  return {
    bucket: s3Bucket,
    ...(s3Region === undefined ? {} : { region: s3Region }),
    ...(s3Endpoint === undefined ? {} : { endpoint: s3Endpoint }),
    ...(s3PathStyle === undefined ? {} : { pathStyle: s3PathStyle }),
    ...(s3StorageClass === undefined ? {} : { storageClass: s3StorageClass }),
    ...(s3Prefix === undefined ? {} : { prefix: s3Prefix }),
    ...(encryption === undefined ? {} : { encryption }),
    conditionalPut: config.s3ConditionalPut,
    checksums: config.s3Checksums,
  };
}

function s3Encryption(config: StoreSettings): Parameters<typeof openS3Store>[0]['encryption'] {
  if (config.s3Encryption === 'none') return undefined;
  if (config.s3Encryption === 'sse-s3') return { type: 'SSE-S3' };
  return { type: 'SSE-KMS', ...(config.s3KmsKeyId === undefined ? {} : { keyId: config.s3KmsKeyId }) };
}

function gcsOptions({ gcsBucket, gcsEndpoint, gcsPrefix }: StoreSettings): Parameters<typeof openGcsStore>[0] {
  if (gcsBucket === undefined) throw new LpsError('CONFIG_INVALID', 'store gcs needs a bucket');
  return {
    bucket: gcsBucket,
    ...(gcsEndpoint === undefined ? {} : { endpoint: gcsEndpoint }),
    ...(gcsPrefix === undefined ? {} : { prefix: gcsPrefix }),
  };
}

function azureOptions(config: StoreSettings): Parameters<typeof openAzureStore>[0] {
  const { azureContainer, azureAccount, azureEndpoint, azureConnectionString, azurePrefix } = config;
  if (azureContainer === undefined) throw new LpsError('CONFIG_INVALID', 'store azure needs a container');
  return {
    container: azureContainer,
    ...(azureAccount === undefined ? {} : { account: azureAccount }),
    ...(azureEndpoint === undefined ? {} : { endpoint: azureEndpoint }),
    ...(azureConnectionString === undefined ? {} : { connectionString: azureConnectionString }),
    ...(azurePrefix === undefined ? {} : { prefix: azurePrefix }),
  };
}
