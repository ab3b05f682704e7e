import { blob, sizes } from './blobs.js';

/**
 * A result of 1 MB.
 * @param {number} number
 */
export async function produce(number) {
  console.log(`activity ${number} started`);
  return blob(number, sizes.result);
}
