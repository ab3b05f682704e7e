/** For tests of the extraction: claims in every form, and what people wrap around them. */
import { createHash } from 'node:crypto';
import { deflateSync, gzipSync } from 'node:zlib';
import { type Digest, formatClaim, keyFor, parseKey } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import proto from '@temporalio/proto';
import type { Edge } from '../edge.js';

export const namespace = 'orders';

export const messageType = 'temporal.api.sdk.v1.ExternalStorageReference';

export function digestNamed(name: string): Digest {
  return `sha256:${createHash('sha256').update(name).digest('hex')}`;
}

export function payload(encoding: string, data: string | Uint8Array, more: Record<string, string> = {}): Payload {
  const metadata = Object.entries({ encoding, ...more }).map(([name, value]) => [name, Buffer.from(value)]);
  return { metadata: Object.fromEntries(metadata), data: Buffer.from(data) };
}

export const plain = (value: unknown): Payload => payload('json/plain', JSON.stringify(value));

export interface ClaimForm {
  readonly payload: Payload;
  /** What is found of it by type. */
  readonly edge: Edge;
}

const jsonMetadata = { encoding: Buffer.from('json/plain') };

function ownClaim(key: string): Record<string, string> {
  const metadata = Buffer.from('{"encoding":"anNvbi9wbGFpbg=="}').toString('base64');
  return { version: '1', key, size: '200000', metadata };
}

function referenceTo(driverName: string, claimData: Record<string, string>): Payload {
  const sizes = [{ sizeBytes: 200_000 }] as unknown as NonNullable<Payload['externalPayloads']>;
  return {
    ...payload('json/protobuf', JSON.stringify({ driverName, claimData }), { messageType }),
    externalPayloads: sizes,
  };
}

/** Every way to write a claim of a blob, by name. */
export const claimForms: Readonly<Record<string, (name: string) => ClaimForm>> = {
  'a claim of the Go codec, v2': (name) => {
    const digest = digestNamed(name);
    const key = keyFor(namespace, digest, jsonMetadata);
    return {
      payload: formatClaim({ metadata: jsonMetadata, size: 200_000, digest, key }),
      edge: { digest, namespace },
    };
  },
  'a claim of the Go codec, v1': (name) => {
    const digest = digestNamed(name);
    const text = JSON.stringify({ metadata: null, size: 200_000, digest });
    return { payload: payload('json/plain', text, { 'temporal.io/remote-codec': 'v1' }), edge: { digest } };
  },
  'a reference of our driver': (name) => ownReference('large-payload', name),
  'a reference of our driver under another name': (name) => ownReference('acme-blobs', name),
  'a reference as early SDKs wrote it': (name) => {
    const digest = digestNamed(name);
    const claim_data = ownClaim(keyFor(namespace, digest, jsonMetadata));
    const text = JSON.stringify({ driver_name: 'large-payload', driver_claim: { claim_data } });
    return { payload: payload('json/external-storage-reference', text), edge: { digest, namespace } };
  },
  'a key with a prefix': (name) => {
    const digest = digestNamed(name);
    const key = keyFor(namespace, digest, { 'remote-codec/key-prefix': Buffer.from('team/reports') });
    return { payload: referenceTo('large-payload', ownClaim(key)), edge: { digest, namespace } };
  },
  'a Go claim as the Web UI is shown it': (name) => {
    const digest = digestNamed(name);
    const key = keyFor(namespace, digest, null);
    const claim = { version: 'v2', key, size: '200000', digest, metadata: 'null' };
    return { payload: referenceTo('temporal.io/remote-codec', claim), edge: { digest, namespace } };
  },
};

function ownReference(driverName: string, name: string): ClaimForm {
  const digest = digestNamed(name);
  const key = keyFor(namespace, digest, jsonMetadata);
  return { payload: referenceTo(driverName, ownClaim(key)), edge: { digest, namespace: parseKey(key).namespace } };
}

/** A reference of another driver. */
export function foreignReference(driverName: string, claimData: Record<string, string>): Payload {
  return referenceTo(driverName, claimData);
}

export const goClaim = (name: string): ClaimForm => (claimForms['a claim of the Go codec, v2'] ?? never)(name);

function never(): never {
  throw new Error('there is no such form');
}

/** What was asked of an encoder, at the position of a `bytes` field. */
function field(number: number, bytes: Uint8Array): Buffer {
  const length: number[] = [];
  for (let rest = bytes.length; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) {
      length.push(rest);
      break;
    }
    length.push((rest % 128) + 128);
  }
  return Buffer.concat([Buffer.from([number * 8 + 2, ...length]), bytes]);
}

/** The wrappings that are undone, by name. */
export const wrappings: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  'a JSON string': (bytes) => Buffer.from(JSON.stringify(bytes.toString('latin1'))),
  'JSON of ASCII': (bytes) => Buffer.from(asciiJson({ id: 7, body: bytes.toString('latin1') })),
  base64: (bytes) => Buffer.from(bytes.toString('base64')),
  'base64 for URLs': (bytes) => Buffer.from(bytes.toString('base64url')),
  'base64 in lines': (bytes) => Buffer.from(bytes.toString('base64').replace(/.{76}/g, '$&\r\n')),
  'base64 in JSON': (bytes) => Buffer.from(JSON.stringify([{ content: bytes.toString('base64') }])),
  'base64 with escaped slashes': (bytes) =>
    Buffer.from(`{"body":"${bytes.toString('base64').replaceAll('/', '\\/')}"}`),
  'a field of protobuf': (bytes) =>
    Buffer.concat([Buffer.from([8, 150, 1]), field(6, bytes), field(7, Buffer.from('x'))]),
  gzip: (bytes) => gzipSync(bytes),
  zlib: (bytes) => deflateSync(bytes),
  'zlib, the fast way': (bytes) => deflateSync(bytes, { level: 1 }),
  'zlib, stored': (bytes) => deflateSync(bytes, { level: 0 }),
};

function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function wrapped(bytes: Buffer, names: readonly string[]): Buffer {
  return names.reduce((inside, name) => (wrappings[name] ?? never)(inside), bytes);
}

/** As it comes over the wire: encoded, and decoded again. */
export function received(typeName: string, message: object): object {
  const type = (proto as unknown as { lookupType(name: string): Codec }).lookupType(typeName);
  return type.decode(type.encode(type.fromObject(message)).finish());
}

interface Codec {
  fromObject(value: object): object;
  encode(message: object): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}
