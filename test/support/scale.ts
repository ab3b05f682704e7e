/** `npm run test:long` sets it: the same tests, more rounds. */
export const isLong = process.env.LPS_TEST_SCALE === 'long';

/** How much of something a run does. */
export function scaled(amount: { readonly usual: number; readonly long: number }): number {
  return isLong ? amount.long : amount.usual;
}
