/**
 * JSON strings undone, wherever in some bytes they are: in a text of one's own, in a field of a binary message, in each
 * other. Nothing is parsed, so that it does not matter where a string begins. Bytes that were put into a string one
 * character each (latin1) are bytes again.
 */
const backslash = 0x5c;
const minBytes = 43; // of anything that holds a digest, see search.ts
const escapes = new Map(
  Object.entries({ '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }).map(
    ([name, value]) => [name.charCodeAt(0), value.charCodeAt(0)] as const,
  ),
);
const letterU = 'u'.charCodeAt(0);

export interface Undone {
  /** With escapes undone; parts without any are left out. */
  readonly text?: Buffer;
  /** The same where each character is a byte; parts without such characters are left out. */
  readonly raw?: Buffer;
}

/** JSON texts within the bytes, one level of strings undone. */
export function jsonTexts(bytes: Buffer): Undone {
  const texts: Buffer[] = [];
  const raws: Buffer[] = [];
  const places = new Places(bytes);
  for (let end = 0, at = places.next(0); at >= 0; at = places.next(end)) {
    let start = at;
    while (start > end && isTextByte(bytes[start - 1])) start -= 1;
    end = at + 1;
    while (end < bytes.length && isTextByte(bytes[end])) end += 1;
    if (end - start < minBytes) continue;
    const text = unescaped(bytes.subarray(start, end));
    if (text.length < end - start) texts.push(text, separator);
    if (hasPair(text)) raws.push(folded(text), separator);
  }
  return {
    ...(texts.length === 0 ? {} : { text: Buffer.concat(texts) }),
    ...(raws.length === 0 ? {} : { raw: Buffer.concat(raws) }),
  };
}

/** Where something is to undo. Each kind is looked for once from one end to the other. */
class Places {
  readonly #bytes: Buffer;
  readonly #kinds: { readonly next: NextPlace; at: number }[];

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#kinds = [nextEscape, ...leads.map((lead) => nextPair(lead))].map((next) => ({ next, at: next(bytes, 0) }));
  }

  /** At `from` or behind it; -1 for none. */
  next(from: number): number {
    let nearest = -1;
    for (const kind of this.#kinds) {
      if (kind.at >= 0 && kind.at < from) kind.at = kind.next(this.#bytes, from);
      if (kind.at >= 0 && (nearest < 0 || kind.at < nearest)) nearest = kind.at;
    }
    return nearest;
  }
}

type NextPlace = (bytes: Buffer, from: number) => number;

const separator = Buffer.from([0]);

function nextEscape(bytes: Buffer, from: number): number {
  let at = bytes.indexOf(backslash, from);
  while (at >= 0 && !isEscape(bytes[at + 1])) at = bytes.indexOf(backslash, at + 1);
  return at;
}

function isEscape(letter: number | undefined): boolean {
  return letter !== undefined && (letter === letterU || escapes.has(letter));
}

/** JSON texts hold no other control characters, so they end where one is. */
function isTextByte(byte: number | undefined): boolean {
  return byte !== undefined && (byte >= 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d);
}

function unescaped(text: Buffer): Buffer {
  const out = Buffer.allocUnsafe(text.length); // an escape is never shorter than what it stands for
  let length = 0;
  let from = 0;
  for (let at = text.indexOf(backslash); at >= 0; at = text.indexOf(backslash, from)) {
    length += text.copy(out, length, from, at);
    const letter = text[at + 1];
    const simple = letter === undefined ? undefined : escapes.get(letter);
    const unit = letter === letterU ? unitAt(text, at + 2) : undefined;
    if (unit !== undefined) {
      length += out.write(String.fromCharCode(unit), length, 'utf8');
      from = at + 6;
    } else {
      out[length] = simple ?? backslash;
      length += 1;
      from = simple === undefined ? at + 1 : at + 2;
    }
  }
  length += text.copy(out, length, from);
  return out.subarray(0, length);
}

/** Four hexadecimal digits. */
function unitAt(text: Buffer, at: number): number | undefined {
  const digits = text.toString('latin1', at, at + 4);
  return /^[0-9a-fA-F]{4}$/.test(digits) ? Number.parseInt(digits, 16) : undefined;
}

/** Of characters from U+0080 to U+00FF, in UTF-8. */
const leads = [0xc2, 0xc3] as const;

function nextPair(lead: number): NextPlace {
  return (bytes, from) => {
    let at = bytes.indexOf(lead, from);
    while (at >= 0 && ((bytes[at + 1] ?? 0) & 0xc0) !== 0x80) at = bytes.indexOf(lead, at + 1);
    return at;
  };
}

function hasPair(text: Buffer): boolean {
  return leads.some((lead) => nextPair(lead)(text, 0) >= 0);
}

/** Such characters as one byte each. */
function folded(text: Buffer): Buffer {
  const out = Buffer.allocUnsafe(text.length);
  let length = 0;
  for (let at = 0; at < text.length; at += 1) {
    const byte = text[at] ?? 0;
    const isPair = (byte === 0xc2 || byte === 0xc3) && ((text[at + 1] ?? 0) & 0xc0) === 0x80;
    out[length] = isPair ? ((byte & 3) << 6) | ((text[at + 1] ?? 0) & 0x3f) : byte;
    length += 1;
    if (isPair) at += 1;
  }
  return out.subarray(0, length);
}
