import type { CallOptions } from '../blob-store.js';
import { discard } from '../body.js';
import type { Transport } from '../transport.js';

/**
 * A server's clock minus ours, in ms, to the second, which is how exactly servers tell theirs. The request is not signed:
 * a clock that is far off would have it refused, but an answer of any status has a date.
 */
export async function clockSkewMs(
  transport: Transport,
  url: string,
  { signal }: CallOptions = {},
): Promise<number | undefined> {
  const sentAt = Date.now();
  const { headers, body } = await transport.request({ method: 'HEAD', url, signal });
  discard(body);
  const tellsAt = Date.parse(headers.date ?? '');
  if (Number.isNaN(tellsAt)) return undefined;
  const half = 500; // the date is cut to the second
  const askedAt = (sentAt + Date.now()) / 2;
  return Math.round((tellsAt + half - askedAt) / 1000) * 1000 || 0;
}
