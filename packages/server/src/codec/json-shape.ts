import { LpsError } from '@large-payload/core';

/** A body of payloads has five levels; what it may carry besides is skipped. */
const maxDepth = 32;
/** Values, names and lists: 10,000 payloads with some metadata have a fifth of it. An empty object costs 60 bytes of memory. */
const maxParts = 500_000;

const [quote, backslash, comma, colon] = [0x22, 0x5c, 0x2c, 0x3a];
const [openList, closeList, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Refuses JSON that costs more than its bytes say, before it is parsed: deep nesting, or millions of small values. One
 * pass, which jumps over texts. Throws INVALID_ARGUMENT; whether it is JSON at all is left to the parser.
 */
export function checkShape(json: Buffer): void {
  let depth = 0;
  let parts = 0;
  for (let at = 0; at < json.length; at += 1) {
    const byte = json[at];
    if (byte === quote) {
      at = endOfText(json, at);
    } else if (byte === openList || byte === openObject) {
      depth += 1;
      parts += 1;
      if (depth > maxDepth) throw tooMuch(`more than ${maxDepth} levels`);
    } else if (byte === closeList || byte === closeObject) {
      depth -= 1;
    } else if (byte === comma || byte === colon) {
      parts += 1;
    }
    if (parts > maxParts) throw tooMuch(`more than ${maxParts} parts`);
  }
}

/** The place of the quote that ends a text, or the end of everything. */
function endOfText(json: Buffer, start: number): number {
  let from = start + 1;
  for (;;) {
    const end = json.indexOf(quote, from);
    if (end < 0) return json.length;
    let backslashes = 0;
    while (end - backslashes > from && json[end - backslashes - 1] === backslash) backslashes += 1;
    if (backslashes % 2 === 0) return end;
    from = end + 1;
  }
}

function tooMuch(what: string): LpsError {
  return new LpsError('INVALID_ARGUMENT', `not proto JSON of payloads: it has ${what}`);
}
