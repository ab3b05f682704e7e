/** Runs of bytes of one kind, such as hexadecimal digits, in large buffers. */

/** By byte: 1 for members. */
export type ByteSet = Uint8Array;

export function byteSet(characters: string): ByteSet {
  const set = new Uint8Array(256);
  for (const character of characters) set[character.charCodeAt(0)] = 1;
  return set;
}

const letters = 'abcdefghijklmnopqrstuvwxyz';
const digits = '0123456789';

export const hexDigits = byteSet(`${digits}abcdefABCDEF`);
/** Of both alphabets, the standard one and that for URLs. */
export const base64Digits = byteSet(`${letters}${letters.toUpperCase()}${digits}+/-_`);

/**
 * Visits the maximal runs of at least `minLength` members, in order. Looks at one byte in `minLength` where there are few
 * members, and at none more than twice. A visitor that used more than the run returns where to go on.
 */
export function forEachRun(
  bytes: Buffer,
  members: ByteSet,
  minLength: number,
  visit: (start: number, end: number) => number,
): void {
  const isMember = (at: number): boolean => members[bytes[at] ?? 0] === 1;
  let floor = 0;
  for (let probe = minLength - 1; probe < bytes.length; probe = floor + minLength - 1) {
    let start = probe;
    while (start >= floor && isMember(start)) start -= 1;
    if (start >= floor) {
      floor = start + 1; // the last byte that is none; a long run can only begin behind it
      continue;
    }
    let end = probe + 1;
    while (end < bytes.length && isMember(end)) end += 1;
    floor = Math.max(end, visit(floor, end));
  }
}
