/** For tests of the codec server: references of every kind over a store in memory, and a server of its own. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { type BlobStore, ClaimCheck, formatClaim, keyFor, memoryStore, v1ObjectName } from '@large-payload/core';
import { LargePayloadDriver, type ReadObject, temporalGcsClaims, temporalS3Claims } from '@large-payload/temporal';
import type { Payload, StorageDriver } from '@temporalio/common';
import { encodeReferencePayload } from '@temporalio/common/lib/internal-non-workflow/extstore-helpers.js';
import { GcsStorageDriver } from '@temporalio/external-storage-gcs';
import { S3StorageDriver } from '@temporalio/external-storage-s3';
import { serverOptions } from '../http/app.js';
import { type Answer, request } from '../http/testing.js';
import { type CodecVerb, codecOperation } from '../openapi/codec.js';
import { faultOf } from '../openapi/testing.js';
import type { CodecConfig } from './configured.js';
import { type CodecHandlerOptions, codecRoutes } from './handler.js';
import { parsePayloads } from './payloads-json.js';

export const namespace = 'orders';

/** What `lps serve` has when nothing is set, but for a low threshold. */
export const codecConfig: CodecConfig = {
  codecPreStorage: [],
  codecPostStorage: [],
  codecKeys: undefined,
  codecKeyId: undefined,
  codecDeterministic: false,
  codecThresholdBytes: 1000,
  codecClaims: 'driver',
  codecResponseBytes: 64 * 1024 * 1024,
  codecMemoryBytes: 256 * 1024 * 1024,
  temporalS3Buckets: [],
  temporalGcsBuckets: [],
  s3Region: undefined,
  s3Endpoint: undefined,
  s3PathStyle: undefined,
  gcsEndpoint: undefined,
  v1Namespace: undefined,
};

export interface World {
  readonly store: BlobStore;
  readonly claimCheck: ClaimCheck;
  readonly drivers: readonly StorageDriver[];
  /** The objects of Temporal's buckets, each as `bucket name`. */
  readonly objects: Map<string, Uint8Array>;
  /** Names of what was read from them. */
  readonly reads: string[];
}

export function newWorld(): World {
  const store = memoryStore();
  const claimCheck = new ClaimCheck({ store, namespace, cacheBytes: 0, skipWindowMs: 0 });
  const objects = new Map<string, Uint8Array>();
  const reads: string[] = [];
  const read: ReadObject = async (bucket, name) => {
    reads.push(`${bucket} ${name}`);
    return objects.get(`${bucket} ${name}`);
  };
  const bucket = { buckets: ['theirs'], read, cacheBytes: 0 };
  const drivers = [new LargePayloadDriver({ claimCheck }), temporalS3Claims(bucket), temporalGcsClaims(bucket)];
  return { store, claimCheck, drivers, objects, reads };
}

export function plain(bytes: number | Uint8Array = 300): Payload {
  const data = typeof bytes === 'number' ? new Uint8Array(randomBytes(bytes)) : bytes;
  return { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data };
}

/** A payload's stand-ins, each as its own writer makes it. */
export const kinds = {
  async 'our driver'({ drivers }: World, payload: Payload): Promise<Payload> {
    return byDriver(drivers[0] as StorageDriver, payload);
  },
  async 'a Go claim'({ claimCheck }: World, payload: Payload): Promise<Payload> {
    return formatClaim(await claimCheck.deposit(payload));
  },
  async 'a v1 claim'({ store }: World, { metadata, data }: Payload): Promise<Payload> {
    const bytes = data ?? new Uint8Array();
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}` as const;
    await store.put(v1ObjectName(digest), bytes, { digest, size: bytes.length });
    const claim = formatClaim({
      metadata: metadata ?? null,
      size: bytes.length,
      digest,
      key: keyFor('x', digest, null),
    });
    const { key: _, ...withoutKey } = JSON.parse(Buffer.from(claim.data ?? []).toString()) as { key: string };
    const marker = { 'temporal.io/remote-codec': Buffer.from('v1') };
    return { metadata: { ...claim.metadata, ...marker }, data: Buffer.from(JSON.stringify(withoutKey)) };
  },
  async 'Temporal’s S3 driver'({ objects }: World, payload: Payload): Promise<Payload> {
    const client = {
      objectExists: async (bucket: string, key: string) => objects.has(`${bucket} ${key}`),
      putObject: async (bucket: string, key: string, data: Uint8Array) => void objects.set(`${bucket} ${key}`, data),
      getObject: async () => new Uint8Array(),
    };
    return byDriver(of122(new S3StorageDriver({ client, bucket: 'theirs' })), payload);
  },
  async 'Temporal’s GCS driver'({ objects }: World, payload: Payload): Promise<Payload> {
    const client = {
      save: async (bucket: string, name: string, data: Uint8Array) => void objects.set(`${bucket} ${name}`, data),
      download: async () => new Uint8Array(),
    };
    return byDriver(of122(new GcsStorageDriver({ client, bucket: 'theirs' })), payload);
  },
  async 'an early SDK'(world: World, payload: Payload): Promise<Payload> {
    const now = await kinds['Temporal’s S3 driver'](world, payload);
    const { driverName, claimData } = JSON.parse(Buffer.from(now.data ?? []).toString()) as Record<string, unknown>;
    const data = Buffer.from(JSON.stringify({ driver_name: driverName, driver_claim: { claim_data: claimData } }));
    return { ...now, metadata: { encoding: Buffer.from('json/external-storage-reference') }, data };
  },
} satisfies Record<string, (world: World, payload: Payload) => Promise<Payload>>;

/** They are pinned to @temporalio/common 1.22, whose classes are others to the compiler; the shapes are the same. */
function of122(driver: unknown): StorageDriver {
  return driver as StorageDriver;
}

/** A reference as the SDK itself writes it. */
export async function byDriver(driver: StorageDriver, payload: Payload, target = namespace): Promise<Payload> {
  const context = { target: { kind: 'workflow', namespace: target, type: 't', id: 'i', runId: 'r' } as const };
  const [claim] = await driver.store(context, [payload]);
  if (claim === undefined) throw new Error('no claim');
  return encodeReferencePayload({ driverName: driver.name, claim, sizeBytes: payload.data?.length ?? 0 });
}

export interface RunningCodec {
  readonly port: number;
  /** Posts payloads, or whatever else; the answer's payloads when it is 200. */
  post(path: string, payloads: readonly Payload[] | string, headers?: http.OutgoingHttpHeaders): Promise<CodecAnswer>;
  close(): Promise<void>;
}

export type CodecAnswer = Answer & { readonly payloads: Payload[] };

export async function startCodec(options: CodecHandlerOptions): Promise<RunningCodec> {
  // with the time for kept connections of the service: Node's own is five seconds, which a busy test may let pass
  const server = http.createServer(serverOptions, codecRoutes(options)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    port,
    async post(path, payloads, headers = {}) {
      const body = Buffer.from(typeof payloads === 'string' ? payloads : toJson(payloads));
      const answer = await request(port, path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body,
      });
      checkAnswer(path, answer);
      return { ...answer, payloads: answer.status === 200 ? parsePayloads(answer.body) : [] };
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Throws when an answer is not as openapi.json describes it. */
function checkAnswer(path: string, { status, headers, text }: Answer): void {
  const [, inPath, verb] = /^(\/[^/?]+)?\/(encode|decode|download)(?:\?|$)/.exec(path) ?? [];
  if (verb === undefined) return;
  const operation = codecOperation(verb as CodecVerb, inPath !== undefined);
  const access = { right: 'decode', over: 'handler' } as const;
  const fault = faultOf({ access, operation }, { status, contentType: headers['content-type'] ?? '', text });
  if (fault !== undefined)
    throw new Error(`POST ${path} was not answered as described: ${fault}\n${text.slice(0, 500)}`);
}

/** As the Web UI writes it; nothing of ours. */
export function toJson(payloads: readonly Payload[]): string {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
  const entries = (metadata: Payload['metadata']): [string, string][] =>
    Object.entries(metadata ?? {}).map(([name, value]) => [name, base64(value)]);
  const list = payloads.map(({ metadata, data, externalPayloads }) => ({
    ...(metadata ? { metadata: Object.fromEntries(entries(metadata)) } : {}),
    ...(data ? { data: base64(data) } : {}),
    ...(externalPayloads?.length
      ? { externalPayloads: externalPayloads.map(({ sizeBytes }) => ({ sizeBytes: String(sizeBytes) })) }
      : {}),
  }));
  return JSON.stringify({ payloads: list });
}
