/** Blobs: what `/v3/blobs` takes and answers. */
import { type ErrorCode, parseNamespace, parseObjectName } from '@large-payload/core';
import { z } from 'zod';
import type { Operation } from './operation.js';
import { exampleKey, key, keyInBody, keyInQuery, keyText, protectedUntil, size, time, wholeNumber } from './schemas.js';

const maxKeysPerStat = 1000;
const maxPerPage = 1000;

export const putQuery = z.object({ key: keyInQuery });

/** What is a key here depends on the service: it may serve blobs of version 1. */
export const headQuery = z.object({ key: keyText });

const leastSize = 'redirect must be the least size in bytes, from 1';
export const getQuery = z.object({
  key: keyText,
  redirect: wholeNumber(1, Number.MAX_SAFE_INTEGER, leastSize)
    .optional()
    .meta({
      description: 'A blob of so many bytes or more may be answered with 307 and the URL of the bucket.',
      examples: [8388608],
    }),
});

export const statBody = z
  .strictObject({ keys: z.array(keyInBody).max(maxKeysPerStat) })
  .meta({ id: 'StatRequest', examples: [{ keys: [exampleKey] }] });
export const statBodyWords = `the body must be {"keys":[…]} with at most ${maxKeysPerStat} keys`;

export const listQuery = z.object({
  prefix: z
    .string()
    .startsWith('/blobs/', 'prefix must begin with /blobs/')
    .default('/blobs/')
    .meta({
      description:
        'Of keys, character by character. Without the slash behind a namespace it needs the right on every namespace.',
      examples: ['/blobs/orders/'],
    })
    .transform((text) => ({ text, namespaces: namespacesOf(text) })),
  after: z
    .string()
    .meta({
      description: 'A key: what comes behind it is listed. The `next` of the page before.',
      examples: [exampleKey],
    })
    .transform((name) => {
      parseObjectName(name);
      return name;
    })
    .optional(),
  limit: wholeNumber(1, maxPerPage, `limit must be a number from 1 to ${maxPerPage}`)
    .default(maxPerPage)
    .meta({ description: 'Blobs on a page.' }),
});

/** A prefix that ends inside a namespace's name reaches into others. */
function namespacesOf(prefix: string): readonly string[] | 'everywhere' {
  const [namespace, rest] = prefix.slice('/blobs/'.length).split('/', 2);
  return rest === undefined ? 'everywhere' : [parseNamespace(namespace)];
}

/** What an upload ended with, whichever way its bytes went. */
export const storedBlob = z
  .object({ key, outcome: z.enum(['created', 'exists']), protectedUntil })
  .meta({ id: 'StoredBlob', description: 'A blob that is stored, by this request or by an earlier one.' });
const foundBlobs = z
  .object({ blobs: z.array(z.object({ key, size, protectedUntil })) })
  .meta({ id: 'FoundBlobs', description: 'The blobs that are there; the others are missing.' });
const blobPage = z
  .object({
    blobs: z.array(z.object({ key, size, modifiedAt: time })),
    next: key.nullable().meta({ description: '`after` of the next page; null on the last one.' }),
  })
  .meta({ id: 'BlobPage' });

const ofStore: readonly ErrorCode[] = ['STORE_UNAVAILABLE', 'STORE_REFUSED', 'CATALOG_UNAVAILABLE', 'TRY_AGAIN'];
const absent: readonly ErrorCode[] = ['BLOB_NOT_FOUND', 'BLOB_DAMAGED', 'BLOB_TAKEN_DOWN', 'BLOB_BLOCKED'];

export const putBlob: Operation = {
  id: 'putBlob',
  tag: 'blobs',
  summary: 'Store a blob',
  description:
    'The bytes must have the digest of the key. With `Expect: 100-continue` they are not sent at all when the blob is there.',
  query: putQuery,
  headers: z.object({
    'Content-Length': z
      .int()
      .min(0)
      .meta({ description: 'Bytes of the blob.', examples: [1048576] }),
    Expect: z.literal('100-continue').optional().describe('Send the bytes only when they are asked for.'),
  }),
  body: 'octets',
  answers: {
    201: { description: 'The blob was stored.', body: storedBlob },
    200: { description: 'It was there already.', body: storedBlob },
  },
  errors: [
    ...([
      'DIGEST_MISMATCH',
      'SIZE_MISMATCH',
      'BLOB_NOT_FOUND',
      'BLOB_TAKEN_DOWN',
      'BLOB_BLOCKED',
      'TOO_SLOW',
      'LENGTH_REQUIRED',
      'BLOB_TOO_LARGE',
    ] as const),
    ...ofStore,
    ...(['OVERLOADED', 'STORE_FULL'] as const),
  ],
};

const ofBlob = ['ETag', 'Accept-Ranges', 'Content-Length', 'LPS-Protected-Until'] as const;

export const headBlob: Operation = {
  id: 'headBlob',
  tag: 'blobs',
  summary: 'Ask for a blob without its bytes',
  query: headQuery,
  answers: { 200: { description: 'The blob is there.', headers: ofBlob } },
  errors: [...absent, ...ofStore],
};

export const getBlob: Operation = {
  id: 'getBlob',
  tag: 'blobs',
  summary: 'Read a blob, or a part of it',
  description:
    'When the stored bytes turn out wrong on the way, the connection is cut: check that the answer is whole.',
  query: getQuery,
  headers: z.object({
    Range: z
      .string()
      .optional()
      .meta({
        description: 'One range of bytes; another form means the whole blob.',
        examples: ['bytes=0-1023', 'bytes=-10'],
      }),
    'If-Range': z.string().optional().describe('The blob’s ETag; with another one `Range` does not count.'),
    'If-None-Match': z.string().optional().describe('ETags that the caller has, or `*`.'),
  }),
  answers: {
    200: { description: 'The whole blob.', body: 'octets', headers: [...ofBlob, 'LPS-As-Of'] },
    206: {
      description: 'The part that was asked for.',
      body: 'octets',
      headers: [...ofBlob, 'LPS-As-Of', 'Content-Range'],
    },
    304: { description: 'The blob is there, and the caller has it.', headers: ['ETag'] },
    307: {
      description: 'The blob is there, and its bytes are in the bucket. Only with `redirect`.',
      headers: ['Location', 'ETag', 'LPS-Digest', 'LPS-Size', 'LPS-Protected-Until'],
    },
  },
  errors: [...absent, 'RANGE_NOT_SATISFIABLE', ...ofStore],
};

export const statBlobs: Operation = {
  id: 'statBlobs',
  tag: 'blobs',
  summary: 'Ask which blobs are there, many at once',
  body: statBody,
  answers: { 200: { description: 'Those that are there.', body: foundBlobs } },
  errors: [...ofStore],
};

export const listBlobs: Operation = {
  id: 'listBlobs',
  tag: 'blobs',
  summary: 'List blobs, page by page',
  query: listQuery,
  answers: { 200: { description: 'A page of them, always in the same order.', body: blobPage } },
  errors: [...ofStore],
};
