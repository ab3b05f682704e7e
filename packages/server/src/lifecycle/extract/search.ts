/**
 * The conservative search: digests wherever they are in some bytes, whoever wrote them.
 *
 *   sha256:9f86…, 9f86…   64 hexadecimal digits
 *   around them           JSON strings, base64 of both alphabets (padded or not, in lines), gzip, zlib, to a depth of 4
 *
 * Protobuf and other binary formats change nothing of what is in them, so they need no unwrapping: all of the above is
 * looked for at every place, not only where a field begins. The same bytes are searched once; a pass over them looks at few.
 */
import type { Digest } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import { base64Digits, forEachRun, hexDigits } from './byte-runs.js';
import { unpackStreams } from './compressed.js';
import { embeddedPayloads } from './embedded-payloads.js';
import { type Findings, tooMuch } from './findings.js';
import { jsonTexts } from './json-text.js';
import type { Budget } from './limits.js';

const digestDigits = 64;
/** A digest has 256 bits: nothing shorter than this holds one in base64, packed or not. */
const minBase64Digits = 43;
const minLineDigits = 60;
/** Bytes that cannot hold a digest, in whatever form. */
export const minSearchedBytes = 32;

export interface SearchContext {
  readonly findings: Findings;
  readonly budget: Budget;
  readonly depth: number;
  /** Payloads that are inside the bytes, and whether their data is searched with them. */
  readonly onPayload: (payload: Payload, isSearched: boolean) => void;
  /** Digests that are known to be there and say nothing new. */
  readonly known?: ReadonlySet<Digest>;
}

/** Everything that can be found in some bytes. A context is for those of one payload, or one field. */
export class Search {
  readonly #context: SearchContext;
  /** What base64 was unwrapped, and to which depth it was searched. */
  readonly #seen = new Map<string, { readonly text: string; depth: number }[]>();

  constructor(context: SearchContext) {
    this.#context = context;
  }

  run(bytes: Uint8Array): void {
    this.#search(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), this.#context.depth);
  }

  #search(bytes: Buffer, depth: number): void {
    if (bytes.length < minSearchedBytes) return;
    const { budget, findings, onPayload } = this.#context;
    const isDone = embeddedPayloads(bytes, budget, (payload, isEncoded) => onPayload(payload, !isEncoded || depth > 0));
    if (!isDone) findings.gap(tooMuch);
    this.#digests(bytes);
    if (depth === 0) return;
    if (!unpackStreams(bytes, budget, (unpacked) => this.#search(unpacked, depth - 1))) findings.gap(tooMuch);
    this.#base64(bytes, depth);
    this.#json(bytes, depth);
  }

  #digests(bytes: Buffer): void {
    forEachRun(bytes, hexDigits, digestDigits, (start, end) => {
      for (const at of placesIn(start, end)) this.#digest(bytes, at);
      return end;
    });
  }

  #digest(bytes: Buffer, at: number): void {
    const digest = digestAt(bytes, at);
    const { findings, known } = this.#context;
    if (known?.has(digest) === true) return;
    // `sha256:…/sha256:…`: the second one is of the metadata
    const first = at - 8 - digestDigits;
    const isBehindKey = first >= 7 && bytes.toString('latin1', at - 8, at) === '/sha256:';
    if (isBehindKey && findings.hasKeyOf(digestAt(bytes, first), digest)) return;
    findings.add({ digest });
  }

  #base64(bytes: Buffer, depth: number): void {
    forEachRun(bytes, base64Digits, minBase64Digits, (start, firstEnd) => {
      const end = endOfLines(bytes, start, firstEnd);
      const text = bytes.toString('latin1', start, end);
      if (this.#isNew(text, depth)) {
        // what is before the beginning may have looked like a part of it: a letter, the length of a field, a path
        for (let skip = 0; skip < 4; skip += 1) this.#unwrapped(depth, Buffer.from(text.slice(skip), 'base64'));
      }
      return end;
    });
  }

  #json(bytes: Buffer, depth: number): void {
    const { text, raw } = jsonTexts(bytes);
    if (text !== undefined) this.#unwrapped(depth, text);
    if (raw !== undefined) this.#unwrapped(depth, raw);
  }

  #unwrapped(depth: number, bytes: Buffer): void {
    const { budget, findings } = this.#context;
    if (budget.takeBytes(bytes.length)) this.#search(bytes, depth - 1);
    else findings.gap(tooMuch);
  }

  /** JSON that was undone has the same base64 as before: it is searched once. */
  #isNew(text: string, depth: number): boolean {
    const name = text.length <= 256 ? text : `${text.length} ${text.slice(0, 64)}${text.slice(-64)}`;
    const others = this.#seen.get(name) ?? [];
    if (others.length === 0) this.#seen.set(name, others);
    const same = others.find((other) => other.text === text);
    if (same !== undefined && same.depth >= depth) return false;
    if (same !== undefined) same.depth = depth;
    // as many as can be compared in no time; others are searched again
    else if (others.length < 8) others.push({ text, depth });
    return true;
  }
}

function digestAt(bytes: Buffer, at: number): Digest {
  return `sha256:${bytes.toString('latin1', at, at + digestDigits).toLowerCase()}`;
}

/** Where in a longer run a digest can be: at an end, or one of several in a row. Not everywhere: the run may be an image. */
function placesIn(start: number, end: number): Set<number> {
  const places = new Set([start, end - digestDigits]);
  const count = (end - start) / digestDigits;
  if (Number.isInteger(count) && count <= 64)
    for (let one = 1; one < count; one += 1) places.add(start + one * digestDigits);
  return places;
}

const [lineFeed, carriageReturn] = [0x0a, 0x0d];

/** Base64 in lines (RFC 2045 and PEM) goes on behind the line's end. */
function endOfLines(bytes: Buffer, start: number, firstEnd: number): number {
  let lineStart = start;
  let end = firstEnd;
  while (end - lineStart >= minLineDigits) {
    let next = end;
    if (bytes[next] === carriageReturn) next += 1;
    if (bytes[next] !== lineFeed || base64Digits[bytes[next + 1] ?? 0] !== 1) break;
    lineStart = next + 1;
    end = lineStart;
    while (end < bytes.length && base64Digits[bytes[end] ?? 0] === 1) end += 1;
  }
  return end;
}
