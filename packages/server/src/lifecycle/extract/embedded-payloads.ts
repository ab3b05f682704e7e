/**
 * Payloads inside other bytes: in a user's message, in the input of a system workflow, in a serialized history. They are
 * found by the name that all of them have in their metadata, so that the message around them need not be known:
 *
 *   protobuf   0a {n} 0a 08 "encoding" 12 {n} {value}   an entry of field 1; others before and behind it
 *              12 {n} {data}                            field 2
 *   JSON       {"metadata":{"encoding":"{base64}",…},"data":"{base64}"}   members in any order, and white space
 */
import type { Payload } from '@temporalio/common';

export interface EmbeddedLimits {
  takeEmbedded(): boolean;
}

/** `isEncoded`: its data is in base64 there, not as it is. */
type Found = (payload: Payload, isEncoded: boolean) => void;

/** Calls back with each. `false`: the limits did not allow for all of them. */
export function embeddedPayloads(bytes: Buffer, limits: EmbeddedLimits, found: Found): boolean {
  return inProtobuf(bytes, limits, found) && inJson(bytes, limits, found);
}

const entryMark = Buffer.from('\n\u0008encoding\u0012', 'latin1');
const [metadataTag, dataTag] = [0x0a, 0x12];
const maxEntryBytes = 4096;
const maxEntries = 32;

function inProtobuf(bytes: Buffer, limits: EmbeddedLimits, found: Found): boolean {
  let floor = 0; // behind the last one
  for (let mark = bytes.indexOf(entryMark); mark >= 0; mark = bytes.indexOf(entryMark, Math.max(mark + 1, floor))) {
    const entry = entryAt(bytes, mark - 2);
    if (entry === undefined) continue;
    const metadata = new Map([[entry.name, entry.value]]);
    addEntriesBefore(bytes, mark - 2, floor, metadata);
    floor = addEntriesBehind(bytes, entry.end, metadata);
    // what is empty holds nothing; other data may have payloads in it, and is looked at next
    const data = dataAt(bytes, floor);
    if (data.length === 0) continue;
    if (!limits.takeEmbedded()) return false;
    found({ metadata: Object.fromEntries(metadata), data }, false);
  }
  return true;
}

interface Entry {
  readonly name: string;
  readonly value: Uint8Array;
  readonly end: number;
}

/** An entry of metadata, its tag and length included. */
function entryAt(bytes: Buffer, at: number): Entry | undefined {
  const entry = at < 0 || bytes[at] !== metadataTag ? undefined : lengthAt(bytes, at + 1);
  if (entry === undefined || entry.length > maxEntryBytes || bytes[entry.start] !== 0x0a) return undefined;
  const end = entry.start + entry.length;
  const name = lengthAt(bytes, entry.start + 1);
  if (name === undefined || end > bytes.length || name.start + name.length > end) return undefined;
  const text = bytes.toString('utf8', name.start, name.start + name.length);
  const valueAt = name.start + name.length;
  // a payload that follows in a list looks like an entry, too; but names are texts
  if (text === '' || hasControlCharacters(text)) return undefined;
  if (valueAt === end) return { name: text, value: new Uint8Array(), end };
  const value = bytes[valueAt] === 0x12 ? lengthAt(bytes, valueAt + 1) : undefined;
  if (value === undefined || value.start + value.length !== end) return undefined;
  return { name: text, value: new Uint8Array(bytes.subarray(value.start, end)), end };
}

function addEntriesBefore(bytes: Buffer, start: number, floor: number, metadata: Map<string, Uint8Array>): void {
  let next = start;
  for (let at = start - 4; at >= floor && at >= next - maxEntryBytes && metadata.size < maxEntries; at -= 1) {
    if (bytes[at] !== metadataTag) continue;
    const entry = entryAt(bytes, at);
    if (entry?.end !== next) continue;
    metadata.set(entry.name, entry.value);
    next = at;
  }
}

/** Returns where they end. */
function addEntriesBehind(bytes: Buffer, start: number, metadata: Map<string, Uint8Array>): number {
  let at = start;
  while (metadata.size < maxEntries) {
    const entry = entryAt(bytes, at);
    if (entry === undefined) break;
    metadata.set(entry.name, entry.value);
    at = entry.end;
  }
  return at;
}

function dataAt(bytes: Buffer, at: number): Uint8Array {
  const data = bytes[at] === dataTag ? lengthAt(bytes, at + 1) : undefined;
  return data === undefined ? new Uint8Array() : bytes.subarray(data.start, data.start + data.length);
}

/** A varint, and where it ends. */
function lengthAt(bytes: Buffer, at: number): { readonly length: number; readonly start: number } | undefined {
  let length = 0;
  for (let index = 0; index < 5; index += 1) {
    const byte = bytes[at + index];
    if (byte === undefined) return undefined;
    length += (byte & 0x7f) * 2 ** (7 * index);
    if (byte < 0x80) return { length, start: at + index + 1 };
  }
  return undefined;
}

function hasControlCharacters(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they tell names from messages
  return /[\u0000-\u001f]/.test(text);
}

const jsonMark = Buffer.from('"metadata"');
const maxMembersBytes = 64 * 1024;
const maxValueBytes = 16 * 1024;

function inJson(bytes: Buffer, limits: EmbeddedLimits, found: Found): boolean {
  for (let mark = bytes.indexOf(jsonMark); mark >= 0; mark = bytes.indexOf(jsonMark, mark + jsonMark.length)) {
    const open = openingBehind(bytes, mark + jsonMark.length);
    if (open === undefined) continue;
    // nothing is read twice: an object that holds another one ends there
    const map = flatMap(bytes, open);
    if (map === undefined || !isEncoding(map.entries.get('encoding'))) continue;
    // without data it holds nothing; so does a claim, whose metadata is that of another payload
    const data = dataBehind(bytes, map.end) ?? dataBefore(bytes, mark);
    if (data === undefined || data.length === 0) continue;
    if (!limits.takeEmbedded()) return false;
    found({ metadata: Object.fromEntries(map.entries), data }, true);
  }
  return true;
}

/** Behind the `{` of a value. */
function openingBehind(bytes: Buffer, at: number): number | undefined {
  const colon = skipSpace(bytes, at);
  if (bytes[colon] !== 0x3a) return undefined;
  const open = skipSpace(bytes, colon + 1);
  return bytes[open] === 0x7b ? open + 1 : undefined;
}

interface FlatMap {
  readonly entries: Map<string, Uint8Array>;
  readonly end: number;
}

/** Names and base64 up to the `}`. `undefined` for anything else. */
function flatMap(bytes: Buffer, open: number): FlatMap | undefined {
  const entries = new Map<string, Uint8Array>();
  let at = open;
  while (entries.size < maxEntries && at - open < maxMembersBytes) {
    const name = stringAt(bytes, skipSpace(bytes, at), 1024);
    const colon = name === undefined ? -1 : skipSpace(bytes, name.end);
    if (name === undefined || bytes[colon] !== 0x3a) return undefined;
    const value = stringAt(bytes, skipSpace(bytes, colon + 1), maxValueBytes);
    if (value === undefined) return undefined;
    entries.set(name.text, new Uint8Array(Buffer.from(value.text, 'base64')));
    at = skipSpace(bytes, value.end);
    if (bytes[at] === 0x7d) return { entries, end: at + 1 };
    if (bytes[at] !== 0x2c) return undefined;
    at += 1;
  }
  return undefined;
}

/** `{"metadata":{"encoding":"gzip"}}` is JSON of something else: it is no base64 of a text. */
function isEncoding(value: Uint8Array | undefined): boolean {
  return value !== undefined && /^[!-~]{1,100}$/.test(Buffer.from(value).toString('latin1'));
}

/** The member `data`, with others of no interest before it. */
function dataBehind(bytes: Buffer, end: number, skips = 1): Uint8Array | undefined {
  const comma = skipSpace(bytes, end);
  if (bytes[comma] !== 0x2c) return undefined;
  const name = stringAt(bytes, skipSpace(bytes, comma + 1), 32);
  const colon = name === undefined ? -1 : skipSpace(bytes, name.end);
  if (name === undefined || bytes[colon] !== 0x3a) return undefined;
  const value = skipSpace(bytes, colon + 1);
  if (name.text === 'data') return decoded(stringAt(bytes, value, bytes.length));
  if (skips === 0 || !isExternal(name.text) || bytes[value] !== 0x5b) return undefined;
  const close = bytes.subarray(value, value + maxEntryBytes).indexOf(0x5d);
  return close < 0 ? undefined : dataBehind(bytes, value + close + 1, skips - 1);
}

function dataBefore(bytes: Buffer, mark: number, skips = 1): Uint8Array | undefined {
  let at = skipSpaceBack(bytes, mark);
  if (bytes[at] !== 0x2c) return undefined;
  at = skipSpaceBack(bytes, at);
  if (bytes[at] === 0x5d) {
    // sizes of external payloads, between the two
    const name = bytes.subarray(Math.max(0, at - maxEntryBytes), at).lastIndexOf('"external');
    if (name < 0 || skips === 0) return undefined;
    return dataBefore(bytes, Math.max(0, at - maxEntryBytes) + name, skips - 1);
  }
  const start = bytes[at] === 0x22 && at > 0 ? bytes.lastIndexOf(0x22, at - 1) : -1;
  const colon = start < 0 ? -1 : skipSpaceBack(bytes, start);
  if (bytes[colon] !== 0x3a) return undefined;
  const nameEnd = skipSpaceBack(bytes, colon) + 1;
  const isData = bytes.toString('latin1', Math.max(0, nameEnd - 6), nameEnd) === '"data"';
  return isData ? decoded(stringAt(bytes, start, bytes.length)) : undefined;
}

function isExternal(name: string): boolean {
  return name === 'externalPayloads' || name === 'external_payloads';
}

function decoded(string: Text | undefined): Uint8Array | undefined {
  return string === undefined ? undefined : new Uint8Array(Buffer.from(string.text, 'base64'));
}

interface Text {
  readonly text: string;
  readonly end: number;
}

function stringAt(bytes: Buffer, at: number, maxBytes: number): Text | undefined {
  if (bytes[at] !== 0x22) return undefined;
  let end = bytes.indexOf(0x22, at + 1);
  while (end >= 0 && isEscaped(bytes, end) && end - at <= maxBytes) end = bytes.indexOf(0x22, end + 1);
  if (end < 0 || end - at - 1 > maxBytes) return undefined;
  const text = bytes.toString('utf8', at, end + 1);
  if (!text.includes('\\')) return { text: text.slice(1, -1), end: end + 1 };
  try {
    return { text: JSON.parse(text) as string, end: end + 1 };
  } catch {
    return undefined;
  }
}

function isEscaped(bytes: Buffer, at: number): boolean {
  let backslashes = 0;
  while (backslashes < 64 && bytes[at - backslashes - 1] === 0x5c) backslashes += 1;
  return backslashes % 2 === 1;
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

const maxSpaces = 256;

function skipSpace(bytes: Buffer, at: number): number {
  let next = at;
  while (next - at < maxSpaces && isSpace(bytes[next])) next += 1;
  return next;
}

/** The last byte before `at` that is none. */
function skipSpaceBack(bytes: Buffer, at: number): number {
  let next = at - 1;
  while (at - next < maxSpaces && isSpace(bytes[next])) next -= 1;
  return next;
}
