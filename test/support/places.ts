/** Where blobs can be, for tests that hold on every store: the service's settings, and what is there behind its back. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import {
  type Azurite,
  type FakeGcs,
  openContainer,
  openS3Client,
  startAzurite,
  startFakeGcs,
  startVersitygw,
  tempDir,
  type Versitygw,
} from '@large-payload/test-components';
import { afterAll } from 'vitest';
import type { V2Blob } from './blobs.ts';
import { copyModelDatabase } from './model-database.ts';
import type { BucketServer, ServiceOptions } from './service.ts';

export interface Place {
  readonly name: 'file' | 's3' | 'gcs' | 'azure';
  readonly options: ServiceOptions & Required<Pick<ServiceOptions, 'store' | 'dataDir'>>;
  /** Of the store, while they are written; where the store has such files of its own. */
  readonly temporaryDir?: string;
  /** How many objects hold a blob. */
  objects(blob: V2Blob): Promise<number>;
  /** Puts bytes at a blob's key as another service would. */
  write(blob: V2Blob, bytes: Uint8Array): Promise<void>;
  /** Replaces the bytes of a stored blob at rest. */
  damage(blob: V2Blob, change: (bytes: Buffer) => Uint8Array): Promise<void>;
  /** Takes a stored blob away. */
  remove(blob: V2Blob): Promise<void>;
}

/** A server of buckets that can be taken away and comes back with what it had. */
export interface Bucket {
  readonly name: 's3' | 'gcs' | 'azure';
  /** The server with a new bucket of its own. */
  withBucket(name: string): Promise<BucketServer>;
  goAway(): Promise<void>;
  comeBack(): Promise<void>;
}

/** The file store, and every other one whose server is here. The servers are stopped after the tests of the file. */
export async function startPlaces(): Promise<Place[]> {
  const { s3, gcs, azure } = await startServers();
  const dataDir = tempDir('place');
  const places = [
    filePlace(dataDir),
    ...(s3 === undefined ? [] : [s3Place(s3)]),
    ...(gcs === undefined ? [] : [gcsPlace(gcs)]),
    ...(azure === undefined ? [] : [azurePlace(azure)]),
  ];
  for (const { options } of places) await copyModelDatabase(options.dataDir);
  return places;
}

export async function startBuckets(): Promise<Bucket[]> {
  const { s3, gcs, azure } = await startServers();
  const buckets: Bucket[] = [];
  for (const [name, server] of [
    ['s3', s3],
    ['gcs', gcs],
  ] as const) {
    if (server === undefined) continue;
    buckets.push({
      name,
      async withBucket(bucket) {
        await server.createBucket(bucket);
        return { ...server, bucket };
      },
      goAway: () => server.kill(),
      comeBack: () => server.restart(),
    });
  }
  if (azure === undefined) return buckets;
  const withBucket = async (container: string): Promise<Azurite> => {
    await azure.createContainer(container);
    return { ...azure, container };
  };
  // Azurite writes down what it has a few seconds later, or when it is told to stop
  return [...buckets, { name: 'azure', withBucket, goAway: () => azure.stop(), comeBack: () => azure.restart() }];
}

async function startServers(): Promise<{ s3?: Versitygw; gcs?: FakeGcs; azure?: Azurite }> {
  const [s3, gcs, azure] = await Promise.all([startVersitygw(), startFakeGcs(), startAzurite()]);
  afterAll(() => Promise.all([s3?.stop(), gcs?.stop(), azure?.stop()]));
  return { ...(s3 && { s3 }), ...(gcs && { gcs }), ...(azure && { azure }) };
}

function filePlace(dataDir: string): Place {
  /** packages/core/src/stores/file-path.ts draws the tree. */
  const pathOf = (blob: V2Blob): string => {
    const [, , namespace = '', , digest = '', metadataDigest = ''] = blob.key.split('/');
    const [hex = '', metadataHex] = [digest, metadataDigest].map((text) => text.slice('sha256:'.length));
    return join(dataDir, 'store', 'blobs', namespace, 'common', hex.slice(0, 2), `${hex}.${metadataHex}`);
  };
  return {
    name: 'file',
    options: { store: 'file', dataDir },
    temporaryDir: join(dataDir, 'store', 'tmp'),
    ...asFiles(join(dataDir, 'store')),
    async write(blob, bytes) {
      mkdirSync(dirname(pathOf(blob)), { recursive: true });
      writeFileSync(pathOf(blob), bytes);
    },
  };
}

function s3Place(s3: Versitygw): Place {
  return {
    name: 's3',
    options: { store: s3, dataDir: tempDir('place') },
    ...asFiles(join(s3.dir, s3.bucket)),
    write: (blob, bytes) => writeS3Object(s3, s3.bucket, blob.key, bytes),
  };
}

/** Puts an object as another service would. */
export async function writeS3Object(s3: Versitygw, bucket: string, name: string, bytes: Uint8Array): Promise<void> {
  const client = await openS3Client(s3);
  await client.send(new PutObjectCommand({ Bucket: bucket, Key: name, Body: bytes }));
  client.destroy();
}

function gcsPlace(gcs: FakeGcs): Place {
  return {
    name: 'gcs',
    options: { store: gcs, dataDir: tempDir('place') },
    ...asFiles(join(gcs.dir, gcs.bucket)),
    async write({ key }, bytes) {
      const query = new URLSearchParams({ uploadType: 'media', name: gcs.prefix + key });
      const url = `${gcs.endpoint}/upload/storage/v1/b/${gcs.bucket}/o?${query}`;
      const response = await fetch(url, { method: 'POST', body: Buffer.from(bytes) });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    },
  };
}

function azurePlace(azure: Azurite): Place {
  const blobAt = async ({ key }: V2Blob) => (await openContainer(azure)).getBlockBlobClient(key);
  const write = async (blob: V2Blob, bytes: Uint8Array): Promise<void> => {
    await (await blobAt(blob)).uploadData(Buffer.from(bytes));
  };
  return {
    name: 'azure',
    options: { store: azure, dataDir: tempDir('place') },
    async objects({ key }) {
      let count = 0;
      for await (const _ of (await openContainer(azure)).listBlobsFlat({ prefix: key })) count += 1;
      return count;
    },
    write,
    // Azurite keeps many blobs in one file: damage comes through its front door
    async damage(blob, change) {
      await write(blob, change(await (await blobAt(blob)).downloadToBuffer()));
    },
    async remove(blob) {
      await (await blobAt(blob)).delete();
    },
  };
}

function asFiles(dir: string): Pick<Place, 'objects' | 'damage' | 'remove'> {
  const pathsOf = ({ digest }: V2Blob): string[] => {
    const hex = digest.slice('sha256:'.length);
    const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const paths = files.map((entry) => join(entry.parentPath, entry.name)).filter((path) => path.includes(hex));
    // beside an object, where the file system has no attributes
    return paths.filter((path) => !path.endsWith('.metadata'));
  };
  const pathOf = (blob: V2Blob): string => {
    const paths = pathsOf(blob);
    if (paths.length !== 1 || paths[0] === undefined) throw new Error(`${paths.length} files hold ${blob.key}`);
    return paths[0];
  };
  return {
    objects: async (blob) => pathsOf(blob).length,
    async damage(blob, change) {
      const path = pathOf(blob);
      writeFileSync(path, change(readFileSync(path)));
    },
    remove: async (blob) => rmSync(pathOf(blob)),
  };
}
