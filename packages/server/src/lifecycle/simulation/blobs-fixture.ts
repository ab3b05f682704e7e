/** The blobs that a simulation plays with, and the payloads that stand for them. Made once: hashing is slow. */
import { type Digest, digestOf, formatClaim, keyFor, type Payload } from '@large-payload/core';

export interface SimBlob {
  readonly name: string;
  readonly namespace: string;
  readonly key: string;
  readonly digest: Digest;
  readonly bytes: Uint8Array;
  /** Its claim, as the Go codec writes it. */
  readonly payload: Payload;
  /** A claim that nobody here can read: encrypted by a codec that is not configured. */
  readonly sealed: Payload;
}

export const blobNamespaces = ['orders', 'billing'] as const;

/** The same bytes in both namespaces, so that they share digests and nothing else. */
export const allBlobs: readonly SimBlob[] = blobNamespaces.flatMap((namespace) =>
  Array.from({ length: 6 }, (_, index) => newBlob(namespace, `${index}`)),
);

function newBlob(namespace: string, text: string): SimBlob {
  const bytes = Buffer.from(`the bytes of blob ${text}`.padEnd(40 + Number(text)));
  const digest = digestOf(bytes);
  const key = keyFor(namespace, digest, null);
  const payload = formatClaim({ metadata: { encoding: Buffer.from('json/plain') }, size: bytes.length, digest, key });
  const sealed = {
    metadata: { encoding: Buffer.from('binary/encrypted') },
    data: Buffer.from(payload.data ?? []).reverse(),
  };
  return { name: `${namespace}/${text}`, namespace, key, digest, bytes, payload, sealed };
}
