/**
 * GETs of a container's blobs that somebody else sends: URLs with a shared access signature for one blob, to be read.
 *
 *   https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME?sv=…&spr=https&se=…&sr=b&sp=r&sig=…
 *
 * The SDK makes the signature, with the account's key, or, where tokens show who we are, with a key that Azure gives out
 * for some days (a user delegation key). A PUT cannot be had: nothing binds it to a SHA-256.
 */
import type { StorageSharedKeyCredential, UserDelegationKey } from '@azure/storage-blob';
import type { BlobStore, CallOptions } from '../blob-store.js';
import { LpsError } from '../errors.js';
import type { AzureAccess } from './azure-credentials.js';
import { protocolVersion } from './azure-request.js';
import { askForCredentials } from './credentials.js';

type StorageSdk = typeof import('@azure/storage-blob');

const minuteMs = 60_000;
const dayMs = 24 * 60 * minuteMs;
/** Azure's limit for delegation keys. It has none for signatures with the account's key: they get the same. */
const maxSeconds = (7 * dayMs) / 1000;
/** Azure refuses keys that end later than in 7 days by its own clock, and signatures before a key's start. */
const clocksMayDifferMs = 15 * minuteMs;
/** A younger key is not replaced because a new one would last a little longer. */
const keyIsFreshForMs = 60 * minuteMs;

/** Asks Azure for a key. */
export type GetDelegationKey = (startsOn: Date, expiresOn: Date, options: CallOptions) => Promise<UserDelegationKey>;

export interface PresigningContainer {
  readonly sdk: StorageSdk;
  readonly access: AzureAccess;
  readonly container: string;
  /** Of a blob's name: `prefix` + key. */
  readonly prefix: string;
  readonly getDelegationKey: GetDelegationKey;
  readonly timeoutMs: number;
}

type SigningKey =
  | { readonly accountKey: StorageSharedKeyCredential }
  | { readonly delegated: UserDelegationKey; readonly account: string };

export function azurePresignGet(given: PresigningContainer): NonNullable<BlobStore['presignGet']> {
  const { sdk, access, container, prefix } = given;
  const isHttps = new URL(access.endpoint).protocol === 'https:';
  const signingKey = signingKeyOf(given);

  return async (key, { expiresInMs, signal }) => {
    const seconds = Math.floor(expiresInMs / 1000);
    if (!(seconds >= 1 && seconds <= maxSeconds)) {
      throw new LpsError('INVALID_ARGUMENT', `a presigned request lasts from 1 s to ${maxSeconds} s`);
    }
    const wantedEnd = (Math.floor(Date.now() / 1000) + seconds) * 1000; // Azure is told whole seconds
    const signing = await signingKey(wantedEnd, signal);
    const delegated = 'delegated' in signing ? signing.delegated : undefined;
    const expiresOn = new Date(Math.min(wantedEnd, delegated?.signedExpiresOn.getTime() ?? wantedEnd));
    const name = prefix + key;
    const values = {
      ...{ containerName: container, blobName: name, version: protocolVersion, expiresOn },
      permissions: sdk.BlobSASPermissions.parse('r'),
      protocol: isHttps ? sdk.SASProtocol.Https : sdk.SASProtocol.HttpsAndHttp,
    };
    const signature =
      'delegated' in signing
        ? sdk.generateBlobSASQueryParameters(values, signing.delegated, signing.account)
        : sdk.generateBlobSASQueryParameters(values, signing.accountKey);
    const url = `${access.endpoint}/${container}/${encodeURIComponent(name)}?${signature}`;
    return { method: 'GET', url, headers: {}, expiresAt: expiresOn };
  };
}

/** What can sign until `end`, or as long as it can. Throws NOT_SUPPORTED where nothing can. */
function signingKeyOf(given: PresigningContainer): (end: number, signal?: AbortSignal) => Promise<SigningKey> {
  const { accountKey, account, sas } = given.access;
  if (accountKey !== undefined) return async () => ({ accountKey });
  if (sas !== '' || account === '') {
    // said at the call, where an operator looks for the reason: the store itself works
    const message =
      sas === ''
        ? 'a URL cannot be signed without the name of the account: the endpoint does not show it'
        : 'a URL cannot be signed with a shared access signature, only with the key of the account or a token';
    return () => Promise.reject(new LpsError('NOT_SUPPORTED', message));
  }
  const delegationKey = delegationKeys(given);
  return async (end, signal) => ({ delegated: await delegationKey(end, signal), account });
}

/** The key to sign with now: one at a time is asked for, and shared; whoever gives up does not take it from others. */
function delegationKeys({ getDelegationKey, timeoutMs }: PresigningContainer) {
  let current: { readonly key: UserDelegationKey; readonly askedAt: number } | undefined;
  let next: Promise<UserDelegationKey> | undefined;

  const renewed = async (): Promise<UserDelegationKey> => {
    const askedAt = Date.now();
    const startsOn = new Date(askedAt - clocksMayDifferMs);
    const key = await getDelegationKey(startsOn, new Date(askedAt + 7 * dayMs - clocksMayDifferMs), {});
    if (!(key.signedExpiresOn.getTime() > Date.now())) {
      throw new LpsError('STORE_UNAVAILABLE', 'Azure gave a key that has ended');
    }
    current = { key, askedAt };
    return key;
  };
  const isGoodUntil = (end: number): boolean => {
    if (current === undefined) return false;
    const now = Date.now();
    const leftMs = current.key.signedExpiresOn.getTime() - now;
    const isFresh = now - current.askedAt < keyIsFreshForMs;
    return leftMs >= end - now || (isFresh && leftMs >= (end - now) / 2);
  };
  return async (end: number, signal?: AbortSignal): Promise<UserDelegationKey> => {
    if (current !== undefined && isGoodUntil(end)) return current.key;
    next ??= renewed().finally(() => {
      next = undefined;
    });
    const asked = next;
    const [outcome] = await askForCredentials({ cloud: 'Azure', timeoutMs, signal }, () => Promise.allSettled([asked]));
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  };
}
