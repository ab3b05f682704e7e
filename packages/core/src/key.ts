/**
 * The names of stored things. One parser each, used at every entry.
 *
 *   key           /blobs/orders/common/sha256:9f86…/sha256:e3b0…
 *   with prefix   /blobs/orders/custom/team/reports/sha256:9f86…/sha256:e3b0…
 *   generation    {key}~k3v9x2m4q8w1z7b5      where a blob lives after an earlier one at its key was deleted
 *   v1            blobs/sha256:9f86…           written by the first Go service; read only
 *   service's own .lps/catalog                 small objects beside the blobs
 *
 * The key's text is also the object's name in the bucket, leading slash included. Source: the Go service, API v2.
 */
import { randomBytes } from 'node:crypto';
import { type Digest, isDigest, parseDigest } from './digest.js';
import { LpsError } from './errors.js';
import { keyPrefixName, type Metadata, metadataDigest } from './metadata.js';

/** S3 allows 1,024 bytes for an object's name; a generation needs 17 of them. */
export const maxKeyBytes = 1000;

/** A key taken apart. `generation` is the part after `~`, absent for the first one. */
export interface BlobKey {
  readonly namespace: string;
  readonly prefix?: string;
  readonly digest: Digest;
  readonly metadataDigest: Digest;
  readonly generation?: string;
}

/** An object's name taken apart: a blob's, an old blob's, or one of the service's own. */
export type ObjectName =
  | { readonly kind: 'blob'; readonly blob: BlobKey }
  | { readonly kind: 'v1'; readonly digest: Digest }
  | { readonly kind: 'own'; readonly path: string };

const prefixPattern = /^[0-9a-zA-Z_\-/]+$/;
const generationPattern = /^[0-9a-z]{16}$/;
const ownPattern = /^\.lps\/[0-9a-z][0-9a-z._-]{0,99}(?:\/[0-9a-z][0-9a-z._-]{0,99}){0,3}$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: refusing them is the point
const badNamespace = /[/\\\u0000-\u001f\u007f-\u009f]/;

/** The one parser for namespaces. Throws INVALID_KEY. */
export function parseNamespace(text: unknown): string {
  if (typeof text !== 'string' || text === '') throw invalid('the namespace is required');
  if (text === '.' || text === '..') throw invalid('the namespace must not be "." or ".."');
  if (badNamespace.test(text)) throw invalid('the namespace must not hold "/", "\\" or control characters');
  if (/\p{Surrogate}/u.test(text)) throw invalid('the namespace is not well-formed Unicode');
  return text;
}

/** The one parser for key prefixes. They may begin or end with `/`, or double it. Throws INVALID_KEY. */
export function parsePrefix(text: unknown): string {
  if (typeof text === 'string' && prefixPattern.test(text)) return text;
  throw invalid('the key prefix may hold only letters, digits, "_", "-" and "/"');
}

/** The prefix that a payload's metadata asks for, if any. Throws INVALID_KEY. */
export function prefixOf(metadata: Metadata | null | undefined): string | undefined {
  const value = metadata?.[keyPrefixName];
  if (value === undefined || value.length === 0) return undefined;
  return parsePrefix(Buffer.from(value).toString('latin1'));
}

/** The key of a payload's blob. Throws INVALID_KEY, or INVALID_ARGUMENT for the digest. */
export function keyFor(namespace: string, digest: string, metadata: Metadata | null | undefined): string {
  const prefix = prefixOf(metadata);
  return formatKey({
    namespace: parseNamespace(namespace),
    ...(prefix === undefined ? {} : { prefix }),
    digest: parseDigest(digest),
    metadataDigest: metadataDigest(metadata),
  });
}

/** The text of a key; the inverse of `parseKey`. Throws INVALID_KEY when it is too long. */
export function formatKey(blob: BlobKey): string {
  const middle = blob.prefix === undefined ? 'common' : `custom/${blob.prefix}`;
  const key = `/blobs/${blob.namespace}/${middle}/${blob.digest}/${blob.metadataDigest}`;
  if (Buffer.byteLength(key) > maxKeyBytes) throw invalid(`the key is longer than ${maxKeyBytes} bytes`);
  return blob.generation === undefined ? key : `${key}~${blob.generation}`;
}

/** The one parser for keys as clients send them (no generation). Throws INVALID_KEY. */
export function parseKey(text: unknown): BlobKey {
  const blob = typeof text === 'string' ? tryParseBlob(text) : undefined;
  if (blob === undefined || blob.generation !== undefined) {
    throw invalid('a key looks like /blobs/{namespace}/common/{digest}/{metadata digest}');
  }
  return blob;
}

/** The one parser for object names, used in front of every store. Throws INVALID_KEY. */
export function parseObjectName(text: string): ObjectName {
  const blob = tryParseBlob(text);
  if (blob !== undefined) return { kind: 'blob', blob };
  if (text.startsWith('blobs/')) {
    const digest = text.slice('blobs/'.length);
    if (isDigest(digest)) return { kind: 'v1', digest };
  }
  if (ownPattern.test(text)) return { kind: 'own', path: text.slice('.lps/'.length) };
  throw invalid('not the name of a stored object');
}

/** The object that the first Go service wrote for a digest. */
export function v1ObjectName(digest: Digest): string {
  return `blobs/${digest}`;
}

/** The digest that an object's bytes must have, when its name says so. */
export function digestOfObject(name: ObjectName): Digest | undefined {
  if (name.kind === 'blob') return name.blob.digest;
  return name.kind === 'v1' ? name.digest : undefined;
}

/** A name, never used before, for a later generation of a key. */
export function newGeneration(): string {
  // 16 characters of base 32: 80 bits
  return [...randomBytes(16)].map((byte) => '0123456789abcdefghijklmnopqrstuv'[byte & 31]).join('');
}

function tryParseBlob(text: string): BlobKey | undefined {
  const rest = text.startsWith('/blobs/') ? text.slice('/blobs/'.length) : undefined;
  if (rest === undefined || Buffer.byteLength(text) > maxKeyBytes + 17) return undefined;
  const [tail, generation] = splitOnce(rest.split('/').at(-1) ?? '', '~');
  const segments = rest.split('/');
  const [namespace, kind] = segments;
  const digest = segments.at(-2);
  if (namespace === undefined || segments.length < 4 || !isDigest(digest) || !isDigest(tail)) return undefined;
  if (generation !== undefined && !generationPattern.test(generation)) return undefined;
  const prefix = segments.slice(2, -2).join('/');
  const valid = kind === 'common' ? segments.length === 4 : kind === 'custom' && prefixPattern.test(prefix);
  if (!valid || !isNamespace(namespace)) return undefined;
  return {
    namespace,
    ...(kind === 'custom' ? { prefix } : {}),
    digest,
    metadataDigest: tail,
    ...(generation === undefined ? {} : { generation }),
  };
}

function isNamespace(text: string): boolean {
  try {
    parseNamespace(text);
    return true;
  } catch {
    return false;
  }
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}

function invalid(message: string): LpsError {
  return new LpsError('INVALID_KEY', message);
}
