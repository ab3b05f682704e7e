/**
 * Where an object lies below the file store's directory. The mapping is injective, also on file systems that ignore case.
 *
 *   /blobs/Orders/common/sha256:9f86…/sha256:e3b0…    blobs/%4frders/common/9f/9f86….e3b0…
 *   /blobs/a/custom/x//y/sha256:9f86…/sha256:e3b0…    blobs/a/custom/x%2f%2fy/9f/9f86….e3b0…
 *   {key}~{generation}                                {path of the key}~{generation}
 *   blobs/sha256:9f86…                                v1/9f/9f86…
 *   .lps/catalog                                      own/catalog
 *
 * A namespace or prefix that is too long for one directory name goes on in the next one, marked by a `+` at the end.
 */
import { type Digest, hexOf } from '../digest.js';
import { type BlobKey, formatKey, parseObjectName } from '../key.js';

const partBytes = 200;
const plain = /^[a-z0-9_-]$/;

/** The path of an object, relative, as its directories and its file's name. */
export interface ObjectPath {
  readonly directories: readonly string[];
  readonly file: string;
}

/** The path of an object's name. Throws INVALID_KEY. */
export function pathOf(name: string): ObjectPath {
  const object = parseObjectName(name);
  if (object.kind === 'v1') {
    const hex = hexOf(object.digest);
    return { directories: ['v1', hex.slice(0, 2)], file: hex };
  }
  if (object.kind === 'own') {
    const parts = object.path.split('/').map(encode);
    return { directories: ['own', ...parts.slice(0, -1)], file: parts.at(-1) ?? '' };
  }
  const { digest, metadataDigest, generation } = object.blob;
  const hex = hexOf(digest);
  const file = `${hex}.${hexOf(metadataDigest)}`;
  return {
    directories: [...directoriesOf(object.blob), hex.slice(0, 2)],
    file: generation === undefined ? file : `${file}~${generation}`,
  };
}

/** The object's name of a path below the store's directory; `undefined` for what the store did not write. */
export function nameOf(segments: readonly string[]): string | undefined {
  try {
    const name = decodeName(segments);
    const path = name === undefined ? undefined : pathOf(name);
    // only the one true spelling counts: a stranger's file is not taken for a blob
    return path && [...path.directories, path.file].join('/') === segments.join('/') ? name : undefined;
  } catch {
    return undefined;
  }
}

/** The directories that hold everything whose name begins with `prefix`: where a listing has to look. */
export function listingRoot(prefix: string): readonly string[] {
  const namespace = /^\/blobs\/([^/]+)\//.exec(prefix)?.[1];
  if (namespace !== undefined) return ['blobs', ...split(encode(namespace))];
  return prefix.startsWith('.lps/') ? ['own'] : [];
}

function directoriesOf(blob: BlobKey): string[] {
  const kind = blob.prefix === undefined ? ['common'] : ['custom', ...split(encode(blob.prefix))];
  return ['blobs', ...split(encode(blob.namespace)), ...kind];
}

function decodeName(segments: readonly string[]): string | undefined {
  const [top, ...rest] = segments;
  const file = segments.at(-1) ?? '';
  if (top === 'v1') return `blobs/sha256:${file}`;
  if (top === 'own') return `.lps/${rest.map(decode).join('/')}`;
  if (top !== 'blobs') return undefined;
  const [namespace, afterNamespace] = join(rest);
  const [kind, ...afterKind] = afterNamespace;
  const [prefix] = kind === 'custom' ? join(afterKind) : [undefined];
  const [digest, tail] = file.split('.');
  const [metadataDigest, generation] = (tail ?? '').split('~');
  return formatKey({
    namespace: decode(namespace),
    ...(prefix === undefined ? {} : { prefix: decode(prefix) }),
    digest: `sha256:${digest}` as Digest, // nameOf checks the outcome
    metadataDigest: `sha256:${metadataDigest}` as Digest,
    ...(generation === undefined ? {} : { generation }),
  });
}

/** Lower-case letters, digits, `_`, `-` and dots inside stay; every other byte of the UTF-8 becomes `%xx`. */
function encode(text: string): string {
  return [...text]
    .map((character, index) => {
      if (plain.test(character) || (character === '.' && index > 0)) return character;
      return [...Buffer.from(character, 'utf8')].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('');
    })
    .join('');
}

function decode(text: string): string {
  return decodeURIComponent(text);
}

function split(encoded: string): string[] {
  const parts: string[] = [];
  for (let at = 0; at < encoded.length; at += partBytes) {
    const isLast = at + partBytes >= encoded.length;
    parts.push(encoded.slice(at, at + partBytes) + (isLast ? '' : '+'));
  }
  return parts;
}

/** Takes the parts of one encoded text off the front. */
function join(parts: readonly string[]): [string, readonly string[]] {
  const end = parts.findIndex((part) => !part.endsWith('+'));
  const own = parts.slice(0, end + 1);
  return [own.map((part, index) => (index < own.length - 1 ? part.slice(0, -1) : part)).join(''), parts.slice(end + 1)];
}
