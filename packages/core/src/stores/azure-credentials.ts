/** From the settings to what every request shows: a signature, a token, or a shared access signature in its URL. */
import type { StorageSharedKeyCredential } from '@azure/storage-blob';
import { LpsError } from '../errors.js';
import type { AzureCredential, AzureStoreOptions } from './azure.js';
import { type SharedKey, type SignableRequest, sharedKeyAuthorization } from './azure-signature.js';
import { askForCredentials } from './credentials.js';

type StorageSdk = typeof import('@azure/storage-blob');
type IdentitySdk = Pick<typeof import('@azure/identity'), 'DefaultAzureCredential'>;

/** The two parts of the SDK that are used. */
export interface AzureSdks {
  storage(): Promise<StorageSdk>;
  identity(): Promise<IdentitySdk>;
}

export interface AzureAccess {
  /** Of the account's blob service, without a slash at its end. */
  readonly endpoint: string;
  /** Behind every URL: a shared access signature, or nothing. */
  readonly sas: string;
  /** Empty where neither the settings nor the endpoint tell it. */
  readonly account: string;
  /** With which URLs for others are signed; absent with a shared access signature, and with tokens. */
  readonly accountKey?: StorageSharedKeyCredential;
  /** The `authorization` of a request, where it needs one. */
  authorize(request: SignableRequest, signal?: AbortSignal): Promise<string | undefined>;
}

const scope = 'https://storage.azure.com/.default';
/** A token is renewed so long before it ends, and is good for as long as it can be had no more. */
const renewBeforeMs = 5 * 60_000;

/** Throws CONFIG_INVALID when the settings are not enough, or the part of the SDK that gives tokens is not installed. */
export async function openAccess(options: AzureStoreOptions, sdk: StorageSdk, sdks: AzureSdks): Promise<AzureAccess> {
  const { connectionString, account, idleTimeoutMs: timeoutMs = 30_000 } = options;
  if (connectionString !== undefined) return accessByString(connectionString, sdk);
  const endpoint = options.endpoint ?? (account && `https://${account}.blob.core.windows.net`);
  if (endpoint === undefined || !URL.canParse(endpoint)) {
    throw new LpsError('CONFIG_INVALID', 'the azure store needs an account, an endpoint or a connection string');
  }
  const tokens = tokensOf(options.credential ?? (await defaultCredential(sdks)), timeoutMs);
  await tokens().catch(refuseNone);
  return {
    endpoint: endpoint.replace(/\/+$/, ''),
    sas: '',
    account: account ?? new sdk.BlobServiceClient(endpoint).accountName,
    authorize: async (_request, signal) => `Bearer ${await tokens(signal)}`,
  };
}

/** Throws CONFIG_INVALID when it is not installed. */
export async function storageSdk(sdks: AzureSdks): Promise<StorageSdk> {
  try {
    return await sdks.storage();
  } catch (cause) {
    const message = 'the azure store needs the Azure Blob Storage SDK: npm install @azure/storage-blob';
    throw new LpsError('CONFIG_INVALID', message, { cause });
  }
}

/** What gives tokens may be away at the start; that there is nothing which could give any is another matter. */
function refuseNone(error: LpsError): void {
  const { cause } = error;
  if (!(cause instanceof Error) || !/^(CredentialUnavailable|AggregateAuthentication)Error$/.test(cause.name)) return;
  const [what = ''] = cause.message.split('\n');
  throw new LpsError('CONFIG_INVALID', `there are no Azure credentials: ${what.replace(/\p{Cc}+/gu, ' ')}`, { cause });
}

async function defaultCredential(sdks: AzureSdks): Promise<AzureCredential> {
  try {
    const { DefaultAzureCredential } = await sdks.identity();
    return new DefaultAzureCredential();
  } catch (cause) {
    const message =
      'without a connection string the azure store needs the Azure Identity SDK: npm install @azure/identity';
    throw new LpsError('CONFIG_INVALID', message, { cause });
  }
}

function accessByString(connectionString: string, sdk: StorageSdk): AzureAccess {
  let service: InstanceType<StorageSdk['BlobServiceClient']>;
  try {
    service = sdk.BlobServiceClient.fromConnectionString(connectionString);
  } catch {
    // without its cause: the string is a secret
    throw new LpsError('CONFIG_INVALID', 'the connection string is not one of an Azure storage account');
  }
  const [url = '', sas = ''] = service.url.split('?', 2);
  const { credential, accountName: account } = service;
  const access = { endpoint: url.replace(/\/+$/, ''), sas, account };
  if (!(credential instanceof sdk.StorageSharedKeyCredential)) return { ...access, authorize: async () => undefined };
  const key: SharedKey = { account: credential.accountName, sign: (text) => credential.computeHMACSHA256(text) };
  const authorize: AzureAccess['authorize'] = async (request) => sharedKeyAuthorization(request, key);
  return { ...access, account: credential.accountName, accountKey: credential, authorize };
}

type Token = NonNullable<Awaited<ReturnType<AzureCredential['getToken']>>>;

/** The token to show now: one at a time is asked for, and shared. */
function tokensOf(credential: AzureCredential, timeoutMs: number): (signal?: AbortSignal) => Promise<string> {
  let current: Token | undefined;
  let next: Promise<Token> | undefined;
  const leftMs = (): number => (current === undefined ? 0 : current.expiresOnTimestamp - Date.now());

  const renewed = async (): Promise<Token> => {
    const token = await credential.getToken(scope);
    if (token === null) throw new Error('the credential gave no token');
    current = token;
    return token;
  };
  return async (signal) => {
    if (current !== undefined && leftMs() > renewBeforeMs) return current.token;
    next ??= renewed().finally(() => {
      next = undefined;
    });
    const asked = next;
    try {
      return (await askForCredentials({ cloud: 'Azure', timeoutMs, signal }, () => asked)).token;
    } catch (error) {
      if (current !== undefined && leftMs() > 0 && !signal?.aborted) return current.token;
      throw error;
    }
  };
}
