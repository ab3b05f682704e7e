/** Blobs that can be made again from their seed, and requests about them as clients of v2 make them. */
import { createCipheriv, createHash, randomUUID } from 'node:crypto';
import type http from 'node:http';
import { digestOf } from '@large-payload/core';
import {
  type Answer,
  putHead,
  RawConnection,
  request,
  type V2Blob,
  v2Blob,
} from '../../packages/server/src/http/testing.ts';

export type { Answer, V2Blob };
export { putHead, RawConnection, request };

export interface SeededBlob {
  readonly seed: string;
  readonly size: number;
  readonly digest: string;
  readonly key: string;
}

export function newBlob(size: number, seed: string = randomUUID()): V2Blob {
  return v2Blob(bytesOf(seed, size));
}

/** What a ledger keeps of a blob: not its bytes. */
export function newSeededBlob(size: number): { seeded: SeededBlob; blob: V2Blob } {
  const seed = randomUUID();
  const blob = newBlob(size, seed);
  return { seeded: { seed, size, digest: blob.digest, key: blob.key }, blob };
}

export function again({ seed, size }: SeededBlob): V2Blob {
  return newBlob(size, seed);
}

function bytesOf(seed: string, size: number): Buffer {
  const key = createHash('md5').update(seed).digest();
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size));
}

/** PUT; errors come as problem documents. Rejects when the connection breaks. */
export function put(
  port: number,
  blob: V2Blob,
  options: { body?: Uint8Array; agent?: http.Agent } = {},
): Promise<Answer> {
  const { body = blob.bytes, agent } = options;
  const headers = { ...blob.putHeaders, 'content-length': body.length, accept: 'application/json' };
  return request(port, blob.putPath, { method: 'PUT', headers, body, ...(agent === undefined ? {} : { agent }) });
}

export interface Read {
  /** `broken`: the connection was cut before the end. */
  readonly status: number | 'broken';
  /** Whether the whole right blob came, to a clean end. */
  readonly isRight: boolean;
}

/** GET, to whatever end. */
export async function read(
  port: number,
  { key, digest, size }: Pick<SeededBlob, 'key' | 'digest' | 'size'>,
): Promise<Read> {
  const headers = { 'content-type': 'application/octet-stream', 'x-payload-expected-content-length': String(size) };
  try {
    const { status, body } = await request(port, `/v2/blobs/get?${new URLSearchParams({ key })}`, { headers });
    return { status, isRight: status === 200 && body.length === size && digestOf(body) === digest };
  } catch {
    return { status: 'broken', isRight: false };
  }
}

/** What `read` takes, of a blob whose bytes are at hand. */
export function sized(blob: V2Blob): { key: string; digest: string; size: number } {
  return { key: blob.key, digest: blob.digest, size: blob.bytes.length };
}

export const rightRead: Read = { status: 200, isRight: true };
export const notFound: Read = { status: 404, isRight: false };

/** `code` of a problem document. */
export function codeOf({ text }: Pick<Answer, 'text'>): string | undefined {
  try {
    return (JSON.parse(text) as { code?: string }).code;
  } catch {
    return undefined;
  }
}

/** The value of one metric with just these labels, 0 while there is none. */
export async function metric(port: number, series: string): Promise<number> {
  const { text } = await request(port, '/metrics');
  const line = text.split('\n').find((candidate) => candidate.startsWith(`${series} `));
  return Number(line?.slice(series.length) ?? 0);
}

/** An upload that has sent so many bytes of its body, and waits. */
export async function stalledPut(port: number, blob: V2Blob, sentBytes: number): Promise<RawConnection> {
  const connection = await RawConnection.open(port);
  await connection.write(putHead(blob));
  await connection.write(blob.bytes.subarray(0, sentBytes));
  return connection;
}
