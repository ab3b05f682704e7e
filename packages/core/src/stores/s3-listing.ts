/** What a bucket holds, asked through the SDK, page by page. */
import type {
  ListObjectsV2CommandInput,
  ListObjectsV2CommandOutput,
  ListObjectVersionsCommandInput,
  ListObjectVersionsCommandOutput,
} from '@aws-sdk/client-s3';
import type { BlobInfo, CallOptions, ListOptions } from '../blob-store.js';
import { isDigest } from '../digest.js';
import { repeated } from './repeated.js';
import { fromSdk } from './s3-errors.js';
import { isUnanswerable, type OpenedSdk } from './s3-sdk.js';

export interface ObjectVersion {
  readonly versionId: string;
  /** Only hides older versions. */
  readonly isMarker: boolean;
}

export interface BucketListing {
  /** Whether the bucket keeps versions, as far as we may know. */
  hasVersions(): Promise<boolean>;
  /** Keys, without the store's prefix. */
  objects(prefix: string, options: ListOptions): AsyncIterable<BlobInfo>;
  /** Of exactly this key, the oldest first. */
  versions(key: string, options: CallOptions): Promise<ObjectVersion[]>;
}

export interface ListingOptions {
  readonly bucket: string;
  /** Of every name. */
  readonly prefix: string;
  /** Whether there is an object of exactly this name, or this version of it, which may be a marker. */
  isThere(name: string, options: CallOptions, versionId?: string): Promise<boolean>;
}

export function openListing({ sdk, client }: OpenedSdk, settings: ListingOptions): BucketListing {
  const { bucket, prefix: ownPrefix } = settings;
  const slash = new LeadingSlash(settings, listPage);

  function ask<T>(options: CallOptions, call: (http: { abortSignal?: AbortSignal }) => Promise<T>): Promise<T> {
    const { signal } = options;
    return repeated(signal, async () => {
      try {
        return await call(signal === undefined ? {} : { abortSignal: signal });
      } catch (error) {
        throw fromSdk(error);
      }
    });
  }

  function listPage(input: PageInput, options: CallOptions): Promise<ListObjectsV2CommandOutput> {
    const command = new sdk.ListObjectsV2Command({ Bucket: bucket, EncodingType: 'url', ...input });
    return ask(options, (http) => client.send(command, http));
  }

  return {
    async hasVersions() {
      try {
        const command = new sdk.GetBucketVersioningCommand({ Bucket: bucket });
        const { Status } = await ask({}, (http) => client.send(command, http));
        // a suspended bucket still has its old versions
        return Status !== undefined;
      } catch (error) {
        if (isUnanswerable(error)) return false;
        throw error;
      }
    },

    async *objects(prefix, options) {
      await slash.probe(options);
      const wanted = ownPrefix + prefix;
      const after = options.after === undefined ? {} : { StartAfter: slash.listed(ownPrefix + options.after) };
      let input: PageInput | undefined = { Prefix: slash.listed(wanted), ...after };
      while (input !== undefined) {
        const page: ListObjectsV2CommandOutput = await listPage(input, options);
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? []) {
          const name = slash.stored(decodeName(Key, page.EncodingType));
          if (!name.startsWith(wanted)) continue; // `/blobs/…` among `blobs/…`, where both are listed alike
          const modified = LastModified === undefined ? {} : { modifiedAt: LastModified };
          yield { key: name.slice(ownPrefix.length), size: Size, ...modified };
        }
        const token: string | undefined = page.IsTruncated ? page.NextContinuationToken : undefined;
        input = token === undefined ? undefined : { Prefix: slash.listed(wanted), ContinuationToken: token };
      }
    },

    async versions(key, options) {
      await slash.probe(options);
      const name = ownPrefix + key;
      const found = await versionsAt(slash.listed(name), options);
      if (slash.isKnown || found.length > 0 || !name.startsWith('/')) return found;
      // every object is hidden, or gone
      const others = await versionsAt(name.slice(1), options);
      const [other] = others;
      const isOurs = other !== undefined && (await settings.isThere(name, options, other.versionId));
      return isOurs ? others : [];
    },
  };

  async function versionsAt(listed: string, options: CallOptions): Promise<ObjectVersion[]> {
    const found: ObjectVersion[] = [];
    let next: VersionPage | undefined = {};
    while (next !== undefined) {
      const input: ListObjectVersionsCommandInput = { Bucket: bucket, Prefix: listed, EncodingType: 'url', ...next };
      const command = new sdk.ListObjectVersionsCommand(input);
      const page: ListObjectVersionsCommandOutput = await ask(options, (http) => client.send(command, http));
      found.push(...versionsOf(page, listed));
      // to the last page: the prefix is a whole key, so there is little else
      next = page.IsTruncated ? pageAfter(page) : undefined;
    }
    // S3 lists the newest first
    return found.reverse();
  }
}

type PageInput = Pick<ListObjectsV2CommandInput, 'Prefix' | 'StartAfter' | 'ContinuationToken' | 'MaxKeys'>;

/**
 * Our keys begin with a slash. S3 keeps it; servers that keep objects as files (versitygw) find `/blobs/x` and `blobs/x`
 * in the same place and list it as `blobs/x`. Which kind it is shows when nothing is listed under `/blobs/`, while an
 * object listed as `blobs/x` is found at `/blobs/x`.
 */
class LeadingSlash {
  #isDropped: boolean | undefined;

  constructor(
    readonly settings: ListingOptions,
    readonly listPage: (input: PageInput, options: CallOptions) => Promise<ListObjectsV2CommandOutput>,
  ) {
    if (!`${settings.prefix}/`.startsWith('/')) this.#isDropped = false;
  }

  get isKnown(): boolean {
    return this.#isDropped !== undefined;
  }

  async probe({ signal }: CallOptions): Promise<void> {
    if (this.#isDropped !== undefined) return;
    const options = signal === undefined ? {} : { signal };
    const ours = `${this.settings.prefix}/blobs/`;
    if ((await this.#first(ours, options)) !== undefined) {
      this.#isDropped = false;
      return;
    }
    const other = await this.#first(ours.slice(1), options);
    // an empty bucket does not tell
    if (other !== undefined) this.#isDropped = await this.settings.isThere(`/${other}`, options);
  }

  /** A name, or the beginning of one, as the server lists it. */
  listed(name: string): string {
    return this.#isDropped && name.startsWith('/') ? name.slice(1) : name;
  }

  /** The name that a listed one was stored under. The Go service's first version wrote `blobs/{digest}`, without slash. */
  stored(listed: string): string {
    const lost =
      this.settings.prefix !== '' || (listed.startsWith('blobs/') && !isDigest(listed.slice('blobs/'.length)));
    return this.#isDropped && lost ? `/${listed}` : listed;
  }

  async #first(prefix: string, options: CallOptions): Promise<string | undefined> {
    const page = await this.listPage({ Prefix: prefix, MaxKeys: 1 }, options);
    const key = page.Contents?.[0]?.Key;
    return key === undefined ? undefined : decodeName(key, page.EncodingType);
  }
}

function versionsOf(page: ListObjectVersionsCommandOutput, name: string): ObjectVersion[] {
  const { Versions = [], DeleteMarkers = [], EncodingType } = page;
  const all = [
    ...Versions.map((version) => [version, false] as const),
    ...DeleteMarkers.map((v) => [v, true] as const),
  ];
  return all.flatMap(([{ Key = '', VersionId }, isMarker]) => {
    const isOurs = VersionId !== undefined && decodeName(Key, EncodingType) === name;
    return isOurs ? [{ versionId: VersionId, isMarker }] : [];
  });
}

interface VersionPage {
  readonly KeyMarker?: string;
  readonly VersionIdMarker?: string;
}

function pageAfter({ NextKeyMarker, NextVersionIdMarker, EncodingType }: ListObjectVersionsCommandOutput): VersionPage {
  return {
    ...(NextKeyMarker ? { KeyMarker: decodeName(NextKeyMarker, EncodingType) } : {}),
    ...(NextVersionIdMarker ? { VersionIdMarker: NextVersionIdMarker } : {}),
  };
}

/** Some servers do not encode although they were asked to; those that do say so, and write a space as `+`. */
function decodeName(text: string, encodingType: string | undefined): string {
  return encodingType === 'url' ? decodeURIComponent(text.replaceAll('+', ' ')) : text;
}
