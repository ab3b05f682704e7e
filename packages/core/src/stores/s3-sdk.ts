/**
 * The AWS SDK where it is good: it finds the credentials, the region and the endpoint, and speaks XML for us. Its requests
 * go out over our transport too, so that limits, timeouts and errors are the same for all of them.
 */
import type { S3Client } from '@aws-sdk/client-s3';
import { isBytes } from '../body.js';
import { isLpsError, LpsError } from '../errors.js';
import type { Transport } from '../transport.js';
import type { S3StoreOptions } from './s3.js';
import { escapeQuery, type SigningKeys } from './s3-signature.js';

export type Sdk = typeof import('@aws-sdk/client-s3');
export type ImportSdk = () => Promise<Sdk>;

/** Where the bucket's requests go. */
export interface BucketAddress {
  /** `https://host:port`, without a slash at its end. */
  readonly origin: string;
  readonly host: string;
  /** The bucket's own path, without a slash at its end: `/bucket`, or nothing when the host names the bucket. */
  readonly path: string;
  /** The one that requests are signed for. */
  readonly region: string;
  readonly isAws: boolean;
}

export interface OpenedSdk {
  readonly sdk: Sdk;
  readonly client: S3Client;
  readonly address: BucketAddress;
  /** The keys to sign with now; `refresh` asks for new ones. */
  keys(refresh?: boolean): Promise<SigningKeys>;
}

/** The part of the SDK's request that a handler needs. */
interface SdkRequest {
  readonly method: string;
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | string[] | null>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** Throws CONFIG_INVALID when the SDK is not installed, or the settings, the environment and the profile are not enough. */
export async function openSdk(options: S3StoreOptions, transport: Transport, importSdk: ImportSdk): Promise<OpenedSdk> {
  const sdk = await importOrExplain(importSdk);
  const { endpoint, credentials } = options;
  let seen: SdkRequest | undefined; // the first request, which only shows where requests go
  const handler = {
    metadata: { handlerProtocol: 'http/1.1' },
    async handle(request: SdkRequest, call: { abortSignal?: AbortSignal } = {}) {
      if (seen === undefined) {
        seen = request;
        return { response: { statusCode: 200, headers: {} } };
      }
      return { response: await forward(transport, request, call.abortSignal) };
    },
    updateHttpClientConfig() {},
    httpHandlerConfigs: () => ({}),
  };
  const region = options.region ?? (endpoint === undefined ? undefined : regionOfEnvironment());
  const pathStyle = options.pathStyle ?? (endpoint === undefined ? undefined : true);
  const client = new sdk.S3Client({
    ...(region === undefined ? {} : { region }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(pathStyle === undefined ? {} : { forcePathStyle: pathStyle }),
    ...(credentials === undefined ? {} : { credentials }),
    requestHandler: handler,
    maxAttempts: 1, // we repeat ourselves, all requests alike
    requestChecksumCalculation: 'WHEN_REQUIRED', // servers off AWS refuse the newer kinds
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
  try {
    await client.send(new sdk.HeadBucketCommand({ Bucket: options.bucket }));
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : String(cause);
    throw new LpsError('CONFIG_INVALID', `the S3 settings are not enough: ${what.replace(/\p{Cc}+/gu, ' ')}`, {
      cause,
    });
  }
  const keys = async (refresh = false): Promise<SigningKeys> => {
    try {
      return await client.config.credentials(refresh ? { forceRefresh: true } : {});
    } catch (cause) {
      throw new LpsError('STORE_UNAVAILABLE', 'the AWS credentials cannot be had now', { cause });
    }
  };
  return { sdk, client, address: addressOf(seen), keys };
}

async function importOrExplain(importSdk: ImportSdk): Promise<Sdk> {
  try {
    return await importSdk();
  } catch (cause) {
    const message = 'the s3 store needs the AWS SDK: npm install @aws-sdk/client-s3';
    throw new LpsError('CONFIG_INVALID', message, { cause });
  }
}

function regionOfEnvironment(): string {
  // off AWS the region is a word to sign with, and this is the usual one
  return process.env.AWS_REGION || process.env.AWS_DEFAULT_REGION || 'us-east-1';
}

function addressOf(request: SdkRequest | undefined): BucketAddress {
  const region = /Credential=[^/]+\/\d{8}\/([^/]+)\/s3\//.exec(request?.headers.authorization ?? '')?.[1];
  if (request === undefined || region === undefined) {
    throw new LpsError('CONFIG_INVALID', 'the bucket wants another signature than AWS4-HMAC-SHA256');
  }
  return {
    origin: originOf(request),
    host: new URL(originOf(request)).host,
    path: request.path.replace(/\/$/, ''),
    region,
    isAws: /\.(amazonaws\.com(\.cn)?|api\.aws)$/.test(request.hostname),
  };
}

function originOf({ protocol, hostname, port }: SdkRequest): string {
  return `${protocol}//${hostname}${port === undefined ? '' : `:${port}`}`;
}

async function forward(transport: Transport, request: SdkRequest, signal: AbortSignal | undefined) {
  const { body } = request;
  const query = queryOf(request.query ?? {});
  const response = await transport.request({
    method: request.method,
    url: `${originOf(request)}${request.path}${query === '' ? '' : `?${query}`}`,
    headers: request.headers,
    body: typeof body === 'string' ? Buffer.from(body) : body instanceof Uint8Array && isBytes(body) ? body : undefined,
    signal,
  });
  return { statusCode: response.status, headers: response.headers, body: response.body };
}

function queryOf(query: Readonly<Record<string, string | string[] | null>>): string {
  return Object.keys(query)
    .sort()
    .flatMap((name) => {
      const value = query[name] ?? null;
      const values = Array.isArray(value) ? value : [value];
      return values.map((one) => (one === null ? escapeQuery(name) : `${escapeQuery(name)}=${escapeQuery(one)}`));
    })
    .join('&');
}

/** Whether an error only says that the server does not know or allow a question. */
export function isUnanswerable(error: unknown): boolean {
  if (!isLpsError(error)) return false;
  const { status, s3Code } = error.details;
  // 403 is also the answer to wrong keys
  return s3Code === 'AccessDenied' || s3Code === 'NotImplemented' || status === 405 || status === 501;
}
