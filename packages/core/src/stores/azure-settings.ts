/** What a container's and its account's settings do to blobs. Lifecycle rules are told by Azure's other interface only. */
import type { IncomingHttpHeaders } from 'node:http';
import type { BucketSettings, CallOptions } from '../blob-store.js';
import { discard } from '../body.js';
import { isLpsError } from '../errors.js';
import type { Transport } from '../transport.js';
import type { ContainerListing } from './azure-listing.js';
import type { SendToContainer } from './azure-request.js';
import { clockSkewMs } from './clock-skew.js';

export async function azureSettings(
  opened: { transport: Transport; endpoint: string; send: SendToContainer; listing: ContainerListing },
  versioning: 'on' | 'off' | undefined,
  options: CallOptions,
): Promise<BucketSettings> {
  const { transport, endpoint, send, listing } = opened;
  const skew = await clockSkewMs(transport, `${endpoint}/`, options);
  const container = await readable(async () => {
    const query = { restype: 'container' };
    const { headers, body } = await send({ method: 'HEAD', query, signal: options.signal });
    discard(body);
    return headers;
  });
  const service = await readable(() => listing.serviceProperties(options));
  const { deleteRetentionPolicy } = service ?? {};
  return {
    ...(versioning === undefined ? {} : { versioning }),
    ...(deleteRetentionPolicy === undefined
      ? {}
      : { softDeleteDays: deleteRetentionPolicy.enabled ? (deleteRetentionPolicy.days ?? 0) : 0 }),
    ...(container === undefined ? {} : { retention: isRetained(container) }),
    ...(skew === undefined ? {} : { clockSkewMs: skew }),
  };
}

function isRetained(headers: IncomingHttpHeaders): boolean {
  const marks = [
    'x-ms-has-immutability-policy',
    'x-ms-has-legal-hold',
    'x-ms-immutable-storage-with-versioning-enabled',
  ];
  return marks.some((name) => headers[name] === 'true');
}

/** `undefined` where we may not ask, or the server does not know the question. */
async function readable<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (isLpsError(error, 'STORE_REFUSED') && [400, 403, 501].includes(Number(error.details.status))) return undefined;
    throw error;
  }
}
