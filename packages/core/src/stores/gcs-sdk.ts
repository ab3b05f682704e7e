/** Google's SDK where it is good: it finds the credentials and the endpoint. Requests are our own. */
import { LpsError } from '../errors.js';
import { askForCredentials } from './credentials.js';
import type { GcsStoreOptions } from './gcs.js';

/** As much of the SDK as is used here. */
export interface GcsSdk {
  readonly Storage: new (options: {
    apiEndpoint?: string;
    keyFilename?: string;
  }) => {
    readonly apiEndpoint: string;
    readonly authClient: {
      getClient(): Promise<unknown>;
      getRequestHeaders(url?: string): Promise<object>;
    };
  };
}
export type ImportGcsSdk = () => Promise<GcsSdk>;

export interface OpenedGcs {
  /** Where requests go: `https://storage.googleapis.com`, without a slash at its end. */
  readonly origin: string;
  /** The headers that show who we are. */
  authorize(signal?: AbortSignal): Promise<Record<string, string>>;
}

/** Throws CONFIG_INVALID when the SDK is not installed, or there are no credentials. */
export async function openGcsSdk(options: GcsStoreOptions, importSdk: ImportGcsSdk): Promise<OpenedGcs> {
  const { endpoint, keyFile, idleTimeoutMs: timeoutMs = 30_000 } = options;
  const { Storage } = await importOrExplain(importSdk);
  const { apiEndpoint: origin, authClient } = new Storage({
    ...(endpoint === undefined ? {} : { apiEndpoint: endpoint }),
    ...(keyFile === undefined ? {} : { keyFilename: keyFile }),
  });
  if (keyFile === undefined && !isGoogle(origin)) return { origin, authorize: async () => ({}) };
  try {
    await askForCredentials({ cloud: 'Google', timeoutMs }, () => authClient.getClient());
  } catch (error) {
    const { cause } = error as LpsError;
    const what = cause instanceof Error ? cause.message : (error as LpsError).message;
    const message = `there are no Google credentials: ${what.replace(/\p{Cc}+/gu, ' ')}`;
    throw new LpsError('CONFIG_INVALID', message, { cause: error });
  }
  return {
    origin,
    async authorize(signal) {
      const headers = await askForCredentials({ cloud: 'Google', timeoutMs, signal }, () =>
        authClient.getRequestHeaders(`${origin}/`),
      );
      // a plain object, and in newer versions of the library one of class Headers
      return Object.fromEntries(headers instanceof Headers ? headers : Object.entries(headers)) as Record<
        string,
        string
      >;
    },
  };
}

/** Elsewhere our tokens have no business. */
function isGoogle(origin: string): boolean {
  const { protocol, hostname } = new URL(origin);
  return protocol === 'https:' && /(^|\.)googleapis\.com$/.test(hostname);
}

async function importOrExplain(importSdk: ImportGcsSdk): Promise<GcsSdk> {
  try {
    return await importSdk();
  } catch (cause) {
    const message = 'the gcs store needs the Google Cloud Storage SDK: npm install @google-cloud/storage';
    throw new LpsError('CONFIG_INVALID', message, { cause });
  }
}
