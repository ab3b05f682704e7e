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

/** The bytes with escapes undone, parts without any left out. `undefined` when there are none. */
export function unescaped(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let end = 0;
  for (let at = nextEscape(bytes, 0); at >= 0; at = nextEscape(bytes, end)) {
    let start = at;
    while (start > end && isTextByte(bytes[start - 1])) start -= 1;
    end = at + 1;
    while (end < bytes.length && isTextByte(bytes[end])) end += 1;
    if (end - start < minBytes) continue;
    if (parts.length > 0) parts.push(separator);
    parts.push(unescapedText(bytes.subarray(start, end)));
  }
  return parts.length === 0 ? undefined : Buffer.concat(parts);
}

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

function unescapedText(text: Buffer): Buffer {
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

/** How the first bytes of compressed streams look when each is a character of UTF-8. */
const magics = ['\u001f\u008b\b', 'x\u009c', 'x\u00da'].map((magic) => Buffer.from(magic, 'utf8'));
const plainMagics = ['x\u0001', 'x^'].map((magic) => Buffer.from(magic, 'utf8'));

/** The bytes whose characters, each one byte, are this text. `undefined` when no compressed stream can be among them. */
export function folded(bytes: Buffer): Buffer | undefined {
  const isPacked =
    magics.some((magic) => bytes.includes(magic)) || plainMagics.some((magic) => isNearHigh(bytes, magic));
  if (!isPacked) return undefined;
  const out = Buffer.allocUnsafe(bytes.length);
  let length = 0;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at] ?? 0;
    const isPair = (byte === 0xc2 || byte === 0xc3) && ((bytes[at + 1] ?? 0) & 0xc0) === 0x80;
    out[length] = isPair ? ((byte & 3) << 6) | ((bytes[at + 1] ?? 0) & 0x3f) : byte;
    length += 1;
    if (isPair) at += 1;
  }
  return out.subarray(0, length);
}

/** Whether the magic is followed by such pairs, as packed bytes would be. */
function isNearHigh(bytes: Buffer, magic: Buffer): boolean {
  for (let at = bytes.indexOf(magic); at >= 0; at = bytes.indexOf(magic, at + 1)) {
    const near = bytes.subarray(at, at + 48);
    if (near.includes(0xc2) || near.includes(0xc3)) return true;
  }
  return false;
}
