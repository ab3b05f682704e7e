/**
 * Payloads as proto JSON, the bodies of the codec server's requests and answers (wire.md section 3):
 *
 *   {"payloads":[{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MQ==","externalPayloads":[{"sizeBytes":"123"}]}]}
 *
 * Read as protojson reads it: names in camel or snake case, base64 of either alphabet and with or without its padding,
 * int64 as a string or a number, `null` for what is absent. Unknown fields are skipped: an API that grows must not break
 * the display of workflows.
 */
import { LpsError } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import { checkShape } from './json-shape.js';

/** Bodies that go beyond are refused whole. */
export const bodyLimits = { payloads: 10_000, metadataEntries: 256, nameBytes: 1024, externalPayloads: 64 } as const;

const chunkBytes = 192 * 1024; // a multiple of 3, so that pieces of base64 join

/** Throws INVALID_ARGUMENT, in one short line. */
export function parsePayloads(body: Buffer): Payload[] {
  checkShape(body);
  const message = objectOf(parsed(body), 'the body');
  const list = message.payloads ?? [];
  if (!Array.isArray(list)) throw invalid('`payloads` is not a list');
  if (list.length > bodyLimits.payloads) throw invalid(`there are more than ${bodyLimits.payloads} payloads`);
  return list.map((one, index) => payloadOf(one, `payload ${index + 1}`));
}

/** The answer in pieces of some hundred kilobytes, so that nobody holds all of it as text. Empties the list on its way. */
export function* formatPayloads(payloads: Payload[]): Generator<string> {
  let piece = '';
  for (const more of tokensOf(payloads)) {
    piece += more;
    if (piece.length < chunkBytes) continue;
    yield piece;
    piece = '';
  }
  yield piece;
}

function* tokensOf(payloads: Payload[]): Generator<string> {
  yield '{"payloads":[';
  for (const [index, payload] of payloads.entries()) {
    if (index > 0) yield ',';
    payloads[index] = {}; // what was sent is not kept for a reader who takes his time
    yield* formatPayload(payload);
  }
  yield ']}';
}

function* formatPayload({ metadata, data, externalPayloads }: Payload): Generator<string> {
  let separator = '{';
  if (metadata != null) {
    const entries = Object.entries(metadata).map(([name, value]) => `${JSON.stringify(name)}:"${base64(value)}"`);
    yield `${separator}"metadata":{${entries.join(',')}}`;
    separator = ',';
  }
  if (data != null) {
    yield `${separator}"data":"`;
    for (let at = 0; at < data.length; at += chunkBytes) yield base64(data.subarray(at, at + chunkBytes));
    yield '"';
    separator = ',';
  }
  if (externalPayloads != null && externalPayloads.length > 0) {
    const sizes = externalPayloads.map(({ sizeBytes }) => `{"sizeBytes":"${sizeBytes ?? 0}"}`);
    yield `${separator}"externalPayloads":[${sizes.join(',')}]`;
    separator = ',';
  }
  yield separator === '{' ? '{}' : '}';
}

/** Bytes of a payload, as limits count them. */
export function payloadBytes({ metadata, data }: Payload): number {
  let bytes = data?.length ?? 0;
  for (const [name, value] of Object.entries(metadata ?? {})) bytes += name.length + value.length;
  return bytes;
}

/** Whether something that a codec or a driver handed back is a payload: theirs is code of other people. */
export function isPayload(value: unknown): value is Payload {
  if (typeof value !== 'object' || value === null) return false;
  const { metadata, data } = value as { readonly metadata?: unknown; readonly data?: unknown };
  if (data != null && !(data instanceof Uint8Array)) return false;
  if (metadata == null) return true;
  return typeof metadata === 'object' && Object.values(metadata).every((one) => one instanceof Uint8Array);
}

function parsed(body: Buffer): unknown {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(body);
  } catch (cause) {
    throw invalid('it is not UTF-8', cause);
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw invalid('it is not JSON', cause);
  }
}

function payloadOf(value: unknown, what: string): Payload {
  const record = objectOf(value, what);
  const metadata = record.metadata ?? undefined;
  const data = record.data ?? undefined;
  const external = oneOf(record, 'externalPayloads', 'external_payloads', what);
  return {
    ...(metadata === undefined ? {} : { metadata: metadataOf(metadata, what) }),
    ...(data === undefined ? {} : { data: bytesOf(data, `the data of ${what}`) }),
    ...(external === undefined ? {} : { externalPayloads: externalOf(external, what) }),
  };
}

function metadataOf(value: unknown, what: string): Record<string, Uint8Array> {
  const entries = Object.entries(objectOf(value, `the metadata of ${what}`));
  if (entries.length > bodyLimits.metadataEntries) throw invalid(`the metadata of ${what} has too many names`);
  return Object.fromEntries(
    entries.map(([name, bytes]) => {
      // no codec can be trusted with a name that means something else to JavaScript
      if (name === '__proto__') throw invalid(`the metadata of ${what} has a name that is not allowed`);
      if (name.length > bodyLimits.nameBytes) throw invalid(`the metadata of ${what} has a name that is too long`);
      return [name, bytesOf(bytes, `the metadata of ${what}`)];
    }),
  );
}

function externalOf(value: unknown, what: string): NonNullable<Payload['externalPayloads']> {
  if (!Array.isArray(value) || value.length > bodyLimits.externalPayloads)
    throw invalid(`the external payloads of ${what} are not a list, or too many`);
  const sizes = value.map((one) => {
    const record = objectOf(one, `an external payload of ${what}`);
    const size = oneOf(record, 'sizeBytes', 'size_bytes', what);
    return { sizeBytes: size === undefined ? 0 : int64Of(size, what) };
  });
  // protobufjs takes an int64 as a number or, beyond 2^53, as text; its types know neither
  return sizes as unknown as NonNullable<Payload['externalPayloads']>;
}

function int64Of(value: unknown, what: string): number | string {
  const text = typeof value === 'number' && Number.isSafeInteger(value) ? String(value) : value;
  if (typeof text !== 'string' || !/^-?\d{1,19}$/.test(text)) throw invalid(`a size of ${what} is not a whole number`);
  const number = BigInt(text);
  if (BigInt.asIntN(64, number) !== number) throw invalid(`a size of ${what} is not an int64`);
  return Number.isSafeInteger(Number(text)) ? Number(text) : String(number);
}

function oneOf(record: Record<string, unknown>, camel: string, snake: string, what: string): unknown {
  const [first, second] = [record[camel] ?? undefined, record[snake] ?? undefined];
  if (first !== undefined && second !== undefined) throw invalid(`${what} has a field twice`);
  return first ?? second;
}

function objectOf(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw invalid(`${what} is not a JSON object`);
}

/** Node skips what is not base64, so the text is looked at first; with one pass, however long it is. */
function bytesOf(value: unknown, what: string): Uint8Array {
  const unpadded = typeof value === 'string' ? value.replace(/={1,2}$/, '') : '';
  const padding = typeof value === 'string' ? value.length - unpadded.length : 0;
  const isWhole = unpadded.length % 4 !== 1 && (padding === 0 || (unpadded.length + padding) % 4 === 0);
  if (typeof value !== 'string' || !isWhole || /[^A-Za-z0-9+/_-]/.test(unpadded))
    throw invalid(`${what} is not base64`);
  return new Uint8Array(Buffer.from(unpadded, 'base64'));
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}

function invalid(reason: string, cause?: unknown): LpsError {
  return new LpsError(
    'INVALID_ARGUMENT',
    `not proto JSON of payloads: ${reason}`,
    cause === undefined ? {} : { cause },
  );
}
