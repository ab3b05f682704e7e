/** What the answers of Azure Blob Storage mean in our codes. */
import { discard } from '../body.js';
import { type ErrorCode, isLpsError, LpsError } from '../errors.js';
import type { TransportResponse } from '../transport.js';

const codes: Readonly<Record<string, ErrorCode>> = {
  Md5Mismatch: 'DIGEST_MISMATCH',
  InvalidMd5: 'DIGEST_MISMATCH',
  RequestBodyTooLarge: 'BLOB_TOO_LARGE',
  InvalidRange: 'RANGE_NOT_SATISFIABLE',
  PendingCopyOperation: 'TRY_AGAIN',
  ContainerBeingDeleted: 'STORE_UNAVAILABLE',
  AccountBeingCreated: 'STORE_UNAVAILABLE',
  OperationTimedOut: 'STORE_UNAVAILABLE',
  ServerBusy: 'STORE_UNAVAILABLE',
};

const statuses: Readonly<Record<number, ErrorCode>> = {
  408: 'STORE_UNAVAILABLE',
  413: 'BLOB_TOO_LARGE',
  416: 'RANGE_NOT_SATISFIABLE',
  429: 'STORE_UNAVAILABLE',
  501: 'STORE_REFUSED',
  507: 'STORE_FULL',
};

/** The error that an answer which is no success stands for. Azure names the failure in a header, of HEADs as well. */
export function azureError(response: TransportResponse): LpsError {
  const { status, headers, body } = response;
  discard(body);
  const azureCode = single(headers['x-ms-error-code'])?.replace(/\W+/g, ' ').slice(0, 100);
  const shown = azureCode ?? `status ${status}`;
  // a put that another was faster than is the store's to judge (BlobAlreadyExists, ConditionNotMet, InvalidBlockList)
  const code = codes[shown] ?? statuses[status] ?? (status >= 500 ? 'STORE_UNAVAILABLE' : 'STORE_REFUSED');
  return new LpsError(code, messageOf(code, shown), {
    details: {
      status,
      azureCode,
      requestId: single(headers['x-ms-request-id']),
      retryAfterMs: Number(headers['retry-after']) * 1000 || undefined,
    },
  });
}

/** Whether an error has one of these names of Azure's. */
export function hasAzureCode(error: unknown, ...names: readonly string[]): error is LpsError {
  return isLpsError(error) && names.includes(String(error.details.azureCode));
}

function messageOf(code: ErrorCode, shown: string): string {
  if (shown === 'ContainerNotFound') return 'the container does not exist (ContainerNotFound)';
  switch (code) {
    case 'DIGEST_MISMATCH':
      return `the bytes do not match their MD5 (${shown})`;
    case 'RANGE_NOT_SATISFIABLE':
      return 'the range does not lie within the blob';
    case 'STORE_FULL':
      return `the account is full (${shown})`;
    case 'STORE_UNAVAILABLE':
      return `Azure cannot answer now (${shown})`;
    case 'TRY_AGAIN':
      return `Azure had a conflicting request (${shown})`;
    default:
      return `Azure refused the request (${shown})`;
  }
}

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
