/** Bytes to move around, and a checksum over them. Plain arithmetic only: workflow code has no `node:crypto`. */

const million = 1_000_000;

/** What goes through the workflow, in bytes. Temporal takes 2 MB a payload, 4 MB a message. */
export const sizes = { argument: 5 * million, result: million, signal: 3 * million };
export const resultCount = 20;

/**
 * Bytes that no compression makes smaller, always the same for a seed (xorshift32).
 * @param {number} seed
 * @param {number} size
 */
export function blob(seed, size) {
  const bytes = new Uint8Array(size);
  let state = (seed + 1) * 0x9e3779b1;
  for (let at = 0; at < size; at += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state;
  }
  return bytes;
}

/**
 * The checksum (FNV-1a) of everything before, and of these bytes.
 * @param {number} checksum
 * @param {Uint8Array} bytes
 */
export function fold(checksum, bytes) {
  const { imul } = Math; // looking up a global is slow in the workflow sandbox
  let state = checksum ^ 0x811c9dc5;
  for (let at = 0; at < bytes.length; at += 1) state = imul(state ^ bytes[at], 0x01000193);
  return state >>> 0;
}
