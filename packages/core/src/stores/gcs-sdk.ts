/** Google's SDK where it is good: it finds the credentials and the endpoint, and signs. Requests are our own. */
import { isLpsError, LpsError } from '../errors.js';
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
      getCredentials(): Promise<{ readonly client_email?: string }>;
      /** RSA with SHA-256, in base64: with the service account's key, or by Google (IAM's signBlob) where there is none. */
      sign(text: string): Promise<string>;
    };
  };
}
export type ImportGcsSdk = () => Promise<GcsSdk>;

export interface OpenedGcs {
  /** Where requests go: `https://storage.googleapis.com`, without a slash at its end. */
  readonly origin: string;
  /** The headers that show who we are. */
  authorize(signal?: AbortSignal): Promise<Record<string, string>>;
  /** Absent where requests show no credentials: nobody is there in whose name a URL could be signed. */
  readonly signing?: GcsSigning;
}

/** Signatures of the service account that we are. */
export interface GcsSigning {
  /**
   * Its e-mail address. Throws NOT_SUPPORTED with credentials of another kind: a person's, or of a federation that stands for
   * no account. Only the library can tell, at times only by asking Google, so it is not found out at the opening.
   */
  account(signal?: AbortSignal): Promise<string>;
  /** RSA with SHA-256. Throws STORE_REFUSED when Google may not sign for us, STORE_UNAVAILABLE when it cannot now. */
  sign(text: string, signal?: AbortSignal): Promise<Buffer>;
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
    signing: signingWith(authClient, timeoutMs),
  };
}

type AuthClient = InstanceType<GcsSdk['Storage']>['authClient'];

function signingWith(authClient: AuthClient, timeoutMs: number): GcsSigning {
  return {
    async account(signal) {
      const ask = { cloud: 'Google', timeoutMs, signal };
      const { client_email: account } = await askForCredentials(ask, () => authClient.getCredentials());
      if (account !== undefined) return account;
      const message = 'URLs are signed by service accounts, and these Google credentials are of none';
      throw new LpsError('NOT_SUPPORTED', message);
    },
    async sign(text, signal) {
      try {
        const ask = { cloud: 'Google', timeoutMs, signal };
        return Buffer.from(await askForCredentials(ask, () => authClient.sign(text)), 'base64');
      } catch (error) {
        throw signingError(error);
      }
    },
  };
}

/** What IAM refuses, it refuses again. */
function signingError(error: unknown): unknown {
  if (!isLpsError(error)) return error;
  const status = Number((error.cause as { status?: unknown } | undefined)?.status);
  if (!(status >= 400 && status < 500) || status === 408 || status === 429) return error;
  const message = `Google signs no URL for us (status ${status}): the service account needs iam.serviceAccounts.signBlob on itself`;
  return new LpsError('STORE_REFUSED', message, { details: { status }, cause: error });
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
