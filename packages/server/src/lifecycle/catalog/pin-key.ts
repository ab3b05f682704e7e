/** What a pin names: one blob, or all keys of a namespace that begin so. */
import { LpsError, parseKey, parseNamespace } from '@large-payload/core';
import { prefixBounds } from '../../catalog/list-range.js';

export interface PinKey {
  readonly namespace: string;
  /** As it is kept: the key's one spelling, or a prefix that ends with `/`. */
  readonly key: string;
  readonly isPrefix: boolean;
}

/**
 * `/blobs/orders/common/sha256:9f86…/sha256:e3b0…`, or `/blobs/orders/`, `/blobs/orders/custom/reports/`. A prefix names
 * its namespace: nobody pins across namespaces. Throws INVALID_KEY.
 */
export function parsePinKey(text: string): PinKey {
  if (!text.endsWith('/')) return { namespace: parseKey(text).namespace, key: text, isPrefix: false };
  const [start, word, name] = text.split('/');
  if (start !== '' || word !== 'blobs' || name === undefined || name === '' || text.split('/').length < 4) {
    throw invalid();
  }
  const namespace = parseNamespace(name);
  if (Buffer.byteLength(text) > 1000 || prefixBounds(namespace, text) === undefined) throw invalid();
  return { namespace, key: text, isPrefix: true };
}

/** Whether a pin keeps the blob of a key. */
export function isPinnedBy(pinKey: string, key: string): boolean {
  return pinKey === key || (pinKey.endsWith('/') && key.startsWith(pinKey));
}

function invalid(): LpsError {
  return new LpsError('INVALID_KEY', 'a pin names a key, or a prefix such as /blobs/{namespace}/custom/reports/');
}
