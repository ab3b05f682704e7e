import type { Readable } from 'node:stream';
import type { BlobStore, Body, Expected, GetOptions, StoredBlob } from '../blob-store.js';
import { isBytes } from '../body.js';
import { DigestStream, digestOf, parseDigest } from '../digest.js';
import { type ErrorCode, LpsError } from '../errors.js';
import { digestOfObject, parseObjectName } from '../key.js';
import { Passage } from '../passage.js';
import { passThrough, statOf } from './layer.js';

/** The functions of stores that have been through here: copies of a store have them as well, unless they were replaced. */
const verifying = new WeakSet<object>();

/**
 * Makes any store safe to use: names are valid, and no wrong byte is committed or read to a clean end.
 *
 * A stream's last chunk is held back until the digest matches, so the layer below never sees a complete wrong body, and
 * a reader never sees the end of one. A range cannot be checked: it only resumes, and whoever reads it checks the whole.
 *
 * A store that is checked already comes back as it is: no byte is hashed twice.
 */
export function checked(store: BlobStore): BlobStore {
  if (verifying.has(store.put) && verifying.has(store.get)) return store;
  const safe: BlobStore = {
    ...passThrough(store),
    async put(key, body, expect, options) {
      checkExpected(key, expect);
      return store.put(key, abortable(verifiedUpload(body, expect), options?.signal), expect, options);
    },
    async get(key, options) {
      const digest = digestOfObject(parseObjectName(key));
      const found = await store.get(key, checkedRange(options));
      if (found === undefined || digest === undefined || options?.range !== undefined) return found;
      return verifiedRead(found, { digest, size: found.info.size });
    },
    async head(key, options) {
      parseObjectName(key);
      return store.head(key, options);
    },
    async stat(keys, options) {
      for (const key of keys) parseObjectName(key);
      return statOf(store, keys, options);
    },
    async delete(key, options) {
      parseObjectName(key);
      return store.delete(key, options);
    },
    ...checkedCount(store),
    ...checkedPresigning(store),
  };
  verifying.add(safe.put);
  verifying.add(safe.get);
  return safe;
}

function checkedCount(store: BlobStore): Partial<BlobStore> {
  const { countVersions } = store;
  if (countVersions === undefined) return {};
  return {
    async countVersions(key, options) {
      parseObjectName(key);
      return countVersions.call(store, key, options);
    },
  };
}

/** Whoever gets such a request reaches the store past every layer: a GET's bytes are not checked here. */
function checkedPresigning(store: BlobStore): Partial<BlobStore> {
  const { presignPut, presignGet } = store;
  return {
    ...(presignPut && {
      async presignPut(key, expect, options) {
        checkExpected(key, expect);
        return presignPut.call(store, key, expect, options);
      },
    }),
    ...(presignGet && {
      async presignGet(key, options) {
        parseObjectName(key);
        return presignGet.call(store, key, options);
      },
    }),
  };
}

function checkExpected(key: string, expect: Expected): void {
  const digest = digestOfObject(parseObjectName(key));
  parseDigest(expect.digest);
  if (!Number.isSafeInteger(expect.size) || expect.size < 0) {
    throw new LpsError('INVALID_ARGUMENT', 'the size of a blob must be a whole number of bytes');
  }
  if (digest !== undefined && digest !== expect.digest) {
    throw new LpsError('INVALID_ARGUMENT', 'the key and the digest name different bytes');
  }
}

function checkedRange(options: GetOptions | undefined): GetOptions | undefined {
  const range = options?.range;
  if (range === undefined) return options;
  const whole = Number.isSafeInteger(range.start) && Number.isSafeInteger(range.end);
  if (whole && range.start >= 0 && range.end >= range.start) return options;
  throw new LpsError('RANGE_NOT_SATISFIABLE', 'the range is not one of whole bytes, first before last');
}

function verifiedUpload(body: Body, expect: Expected): Body {
  if (!isBytes(body)) return verifiedStream(body, expect, 'DIGEST_MISMATCH', 'SIZE_MISMATCH');
  if (body.length !== expect.size) throw sizeMismatch('SIZE_MISMATCH', expect.size, body.length);
  if (digestOf(body) !== expect.digest) throw digestMismatch('DIGEST_MISMATCH');
  return body;
}

/** Ends a stream with ABORTED when the signal says so, whatever the store below does with signals. */
function abortable(body: Body, signal: AbortSignal | undefined): Body {
  if (signal?.aborted) throw aborted();
  if (signal === undefined || isBytes(body)) return body;
  const stop = (): void => {
    body.destroy(aborted());
  };
  signal.addEventListener('abort', stop, { once: true });
  body.once('close', () => signal.removeEventListener('abort', stop));
  return body;
}

function aborted(): LpsError {
  return new LpsError('ABORTED', 'the upload was aborted');
}

/** A blob whose body ends cleanly only when it is what was expected. Throws BLOB_DAMAGED when whole bytes are not. */
export function verifiedRead(found: StoredBlob, expect: Expected): StoredBlob {
  const { info, body } = found;
  if (!isBytes(body)) return { info, body: verifiedStream(body, expect, 'BLOB_DAMAGED', 'BLOB_DAMAGED') };
  if (body.length !== expect.size) throw sizeMismatch('BLOB_DAMAGED', expect.size, body.length);
  if (digestOf(body) !== expect.digest) throw digestMismatch('BLOB_DAMAGED');
  return found;
}

/** Passes chunks on one behind, and the last one only when size and digest are right. */
function verifiedStream(source: Readable, expect: Expected, digestCode: ErrorCode, sizeCode: ErrorCode): Readable {
  const digest = new DigestStream();
  let size = 0;
  let held: Uint8Array | undefined;
  return new Passage(source, {
    chunk(chunk) {
      size += chunk.length;
      if (size > expect.size) throw sizeMismatch(sizeCode, expect.size, size);
      digest.update(chunk);
      const previous = held;
      held = chunk;
      return previous;
    },
    end() {
      if (size !== expect.size) throw sizeMismatch(sizeCode, expect.size, size);
      if (digest.end() !== expect.digest) throw digestMismatch(digestCode);
      return held;
    },
  });
}

function sizeMismatch(code: ErrorCode, expected: number, size: number): LpsError {
  const message =
    size > expected ? `more than the ${expected} bytes announced` : `${size} of ${expected} bytes arrived`;
  return new LpsError(code, message, { details: { expected, size } });
}

function digestMismatch(code: ErrorCode): LpsError {
  return new LpsError(code, 'the bytes do not match their digest');
}
