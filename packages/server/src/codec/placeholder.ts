/**
 * What stands in place of a payload that was erased on request. A page of the Web UI shows many payloads, and one that is
 * gone for good must not take the others with it:
 *
 *   metadata  encoding: json/plain, large-payload/placeholder: taken_down
 *   data      "This payload was erased on request …"
 *
 * Programs tell it from a payload by the metadata. Codecs never see it: it was never encoded.
 */
import type { Payload } from '@temporalio/common';
import { lpsErrorIn } from './codec-error.js';

/** The metadata that marks one. */
export const placeholderMetadata = 'large-payload/placeholder';

const made = new WeakSet<Payload>();
const bytesOf = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'utf8'));

/** For the payload that could not be fetched because of the error; `undefined` when that is of another kind. */
export function placeholderFor(error: unknown, subject: string): Payload | undefined {
  if (lpsErrorIn(error)?.code !== 'BLOB_TAKEN_DOWN') return undefined;
  const sentence = `This payload was erased on request (taken down) and cannot be shown any more: ${subject}`;
  const metadata = { encoding: bytesOf('json/plain'), [placeholderMetadata]: bytesOf('taken_down') };
  const payload: Payload = { metadata, data: bytesOf(JSON.stringify(sentence)) };
  made.add(payload);
  return payload;
}

/** Whether it was made here; metadata can be anybody's. */
export function isPlaceholder(payload: Payload): boolean {
  return made.has(payload);
}
