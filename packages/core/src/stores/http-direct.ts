/**
 * Large blobs, straight between here and the bucket.
 *
 *   put   POST /v3/uploads ─ present ──────────────────────────────────────────────────────────▶ exists, nothing sent
 *                          ─ direct ──▶ PUT to the bucket ─ 200, 412 ─▶ complete ──────────────▶ created, exists
 *                          │                              └ fails ┐             └ wrong, absent ┐
 *                          └ proxied, not offered ────────────────┴─────────────────────────────┴▶ PUT /v3/blobs
 *
 *   get   GET /v3/blobs&redirect=N ─ 200 ──────────────────────────────────────────────────────▶ its body
 *                                  └ 307 ─▶ GET from the bucket ─ 200, the right length ───────▶ its body
 *                                                               └ anything else ─▶ GET /v3/blobs without `redirect`
 *
 * A bucket that cannot be reached or refuses is left alone for a minute, so that not each transfer waits for a time-out.
 * Requests to the bucket carry what the service signed and nothing else: no header of ours, no certificate.
 */
import type { Readable } from 'node:stream';
import type {
  BlobInfo,
  Body,
  CallOptions,
  Expected,
  GetOptions,
  PutOptions,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { discard, isBytes, readAll } from '../body.js';
import { type ErrorCode, isLpsError, LpsError } from '../errors.js';
import { digestOfObject, parseObjectName } from '../key.js';
import { Passage } from '../passage.js';
import { type Clock, systemClock } from '../retry.js';
import { openTransport, type Transport, type TransportOptions, type TransportResponse } from '../transport.js';
import { redirectOf } from './http-answers.js';
import type { BegunUpload, HttpService } from './http-service.js';

/** How the bytes of one blob moved. */
export interface Transfer {
  readonly operation: 'put' | 'get';
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly way: 'direct' | 'service';
  /** Why a blob of more than `directAboveBytes` went through the service. */
  readonly reason?: LpsError;
}

export interface DirectOptions {
  readonly directAboveBytes: number | undefined;
  readonly onTransfer: (transfer: Transfer) => void;
  readonly clock: Clock | undefined;
  /** As for the service. */
  readonly transport: TransportOptions;
}

const never = Number.MAX_SAFE_INTEGER;
const pauseMs = 60_000;
/** A service without direct uploads is asked again after this: it may be another version, or have another bucket. */
const notOfferedMs = 10 * 60_000;
/** Of an unreachable bucket one must know while the caller's deadline (8 s for a payload) leaves time for the service. */
const maxConnectTimeoutMs = 3_000;
const maxAnswerBytes = 64 * 1024;

/** What a service says that has no direct uploads. */
const notOffered: ReadonlySet<ErrorCode> = new Set(['NOT_SUPPORTED', 'ROUTE_NOT_FOUND', 'METHOD_NOT_ALLOWED']);

/** What a transfer fails with on this side of the connection: the caller gave up, or its stream stalled. */
const ownFaults: ReadonlySet<ErrorCode> = new Set(['ABORTED', 'TOO_SLOW']);

export class DirectTransfers {
  readonly #service: HttpService;
  readonly #bucket: Transport;
  readonly #aboveBytes: number;
  readonly #onTransfer: (transfer: Transfer) => void;
  readonly #puts: Objections;
  readonly #gets: Objections;
  readonly #fromBucket = new WeakSet<BlobInfo>();

  /** Throws CONFIG_INVALID. */
  constructor(service: HttpService, { directAboveBytes = never, onTransfer, clock, transport }: DirectOptions) {
    if (!Number.isSafeInteger(directAboveBytes) || directAboveBytes < 0) {
      throw new LpsError('CONFIG_INVALID', '`directAboveBytes` must be a number of bytes');
    }
    this.#service = service;
    this.#aboveBytes = directAboveBytes;
    this.#onTransfer = onTransfer;
    this.#puts = new Objections(clock ?? systemClock);
    this.#gets = new Objections(clock ?? systemClock);
    const { tls: _servicesOwn, connectTimeoutMs = maxConnectTimeoutMs, ...common } = transport;
    this.#bucket = openTransport({
      ...common,
      connectTimeoutMs: Math.min(connectTimeoutMs, maxConnectTimeoutMs),
      errorCode: 'STORE_UNAVAILABLE',
      peerName: 'the bucket',
    });
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const { size } = expect;
    if (size <= this.#aboveBytes) return this.#putThroughService(key, body, expect, options);
    const objection = options.overwrite ? replaces() : this.#puts.to(key);
    if (objection !== undefined) return this.#putThroughService(key, body, expect, options, objection);
    const upload = await this.#begin(key, body, size, options);
    if (isLpsError(upload)) return this.#putThroughService(key, body, expect, options, upload);
    if (upload.outcome === 'proxied') return this.#putThroughService(key, body, expect, options, proxied());
    if (upload.outcome === 'present') {
      discard(body);
      const { protectedUntil } = upload;
      return { outcome: 'exists', ...(protectedUntil === undefined ? {} : { protectedUntil }) };
    }
    const wrongAddress = this.#faultOfAddress(upload.request.url);
    if (wrongAddress === undefined) return this.#putIntoBucket(upload, key, body, expect, options);
    this.#puts.toAll(wrongAddress, pauseMs);
    return this.#putThroughService(key, body, expect, options, wrongAddress);
  }

  async get(key: string, options: GetOptions = {}): Promise<StoredBlob | undefined> {
    const mayGo = this.#aboveBytes < never && options.range === undefined;
    const digest = mayGo ? digestOfObject(parseObjectName(key)) : undefined;
    if (digest === undefined) return this.#getThroughService(key, options);
    const objection = this.#gets.to(key);
    if (objection !== undefined) return this.#getThroughService(key, options, objection);
    const response = await this.#service.askForBlob(key, options, this.#aboveBytes + 1);
    if (response.status !== 307) return this.#told(await this.#service.blobOf(key, response), 'service', proxied());
    await answerOf(response);
    try {
      const redirect = redirectOf(key, response.headers);
      if (redirect.digest !== digest) throw unusable('its digest is not that of the key');
      return await this.#getFromBucket(redirect, options.signal);
    } catch (error) {
      const fault = this.#faultOf(this.#gets, error, options.signal);
      // an object that is gone or cut short is no fault of the bucket's; the service, asked now, will notice
      if (fault.details.status !== 404 && fault.details.status !== 200) this.#gets.toAll(fault, pauseMs);
      return this.#getThroughService(key, options, fault);
    }
  }

  /**
   * To be laid over `checked`. Wrong bytes from the bucket are no verdict on the blob, which is the service's to give:
   * the reader's error can be tried again, and then the service is asked.
   */
  retryable(key: string, found: StoredBlob | undefined): StoredBlob | undefined {
    if (found === undefined || isBytes(found.body) || !this.#fromBucket.has(found.info)) return found;
    const onDamage = (damage: LpsError): LpsError => {
      this.#gets.toNext(key, damage);
      return again(damage);
    };
    return { info: found.info, body: new BucketBody(found.body, onDamage) };
  }

  close(): Promise<void> {
    return this.#bucket.close();
  }

  /** What the service offers, or why it offers nothing. */
  async #begin(key: string, body: Body, size: number, options: CallOptions): Promise<BegunUpload | LpsError> {
    try {
      return await this.#service.beginUpload(key, size, options);
    } catch (error) {
      if (isLpsError(error) && notOffered.has(error.code)) {
        this.#puts.toAll(error, notOfferedMs);
        return error;
      }
      discard(body);
      throw error;
    }
  }

  async #putIntoBucket(
    upload: BegunUpload & { readonly outcome: 'direct' },
    key: string,
    body: Body,
    expect: Expected,
    options: CallOptions,
  ): Promise<PutResult> {
    const sent = await this.#send(upload.request, body, options.signal);
    const fault = isLpsError(sent) ? sent : undefined;
    // a bucket that breaks off may have the object, or have had it: it says so and closes before all bytes have come
    const mayBeThere = fault === undefined || fault.details.reset === true;
    const result = mayBeThere ? await this.#complete(upload.id, options) : fault;
    if (!isLpsError(result)) {
      if (sent === 'stored' || result.outcome === 'created') this.#tell('put', key, expect.size, 'direct');
      return result;
    }
    // two uploads of one blob at the same time are no fault of the bucket's, nor is a kept connection that was closed
    const isBuckets = fault !== undefined && fault.details.status !== 409 && fault.details.staleConnection !== true;
    if (isBuckets) this.#puts.toAll(fault, pauseMs);
    if (isBytes(body)) return this.#putThroughService(key, body, expect, options, fault ?? result);
    this.#puts.toNext(key, fault ?? result);
    throw again(fault ?? result);
  }

  /** What the bucket said, or why it is of no use. Throws what is not its doing. */
  async #send(
    { url, headers }: { readonly url: string; readonly headers: Readonly<Record<string, string>> },
    body: Body,
    signal: AbortSignal | undefined,
  ): Promise<'stored' | 'stands' | LpsError> {
    try {
      for (let tries = 1; ; tries += 1) {
        const response = await this.#bucket.request({ method: 'PUT', url, headers, body, signal });
        const answer = await answerOf(response);
        if (response.status === 200 || response.status === 201) return 'stored';
        if (response.status === 412) return 'stands';
        if (response.status !== 409 || tries === 2 || !isBytes(body)) return refusal(response.status, answer);
      }
    } catch (error) {
      discard(body);
      if (!isBytes(body) && body.errored !== null) throw error; // the body's own
      return this.#faultOf(this.#puts, error, signal);
    }
  }

  /** The outcome, or why the blob must be sent again, through the service. */
  async #complete(id: string, options: CallOptions): Promise<PutResult | LpsError> {
    try {
      return await this.#service.completeUpload(id, options);
    } catch (error) {
      const isLost = isLpsError(error) && (error.code === 'TRY_AGAIN' || error.code === 'UPLOAD_INCOMPLETE');
      if (isLost || (isLpsError(error) && error.details.status === 404)) return error;
      throw error;
    }
  }

  async #getFromBucket(
    { url, info }: { readonly url: string; readonly info: BlobInfo },
    signal: AbortSignal | undefined,
  ): Promise<StoredBlob | undefined> {
    const wrongAddress = this.#faultOfAddress(url);
    if (wrongAddress !== undefined) throw wrongAddress;
    const response = await this.#bucket.request({ method: 'GET', url, signal });
    const { status, headers, body } = response;
    if (status !== 200) throw refusal(status, await answerOf(response));
    if (headers['content-length'] !== `${info.size}`) {
      discard(body);
      const details = { status, expected: info.size, size: headers['content-length'] };
      throw new LpsError('STORE_UNAVAILABLE', 'the object in the bucket is not of the length of the blob', { details });
    }
    body.once('error', (error) => {
      if (!signal?.aborted) this.#gets.toAll(error as LpsError, pauseMs);
      else if (isTimeout(signal)) this.#gets.toAll(tooLate(error), pauseMs);
    });
    this.#fromBucket.add(info);
    return this.#told({ info, body }, 'direct');
  }

  async #putThroughService(
    key: string,
    body: Body,
    expect: Expected,
    options: CallOptions,
    reason?: LpsError,
  ): Promise<PutResult> {
    const result = await this.#service.put(key, body, expect, options);
    if (result.outcome === 'created') this.#tell('put', key, expect.size, 'service', reason);
    return result;
  }

  async #getThroughService(key: string, options: GetOptions, reason?: LpsError): Promise<StoredBlob | undefined> {
    const found = await this.#service.get(key, options);
    return options.range === undefined ? this.#told(found, 'service', reason) : found;
  }

  /** Tells of a blob when its last byte has come. */
  #told(found: StoredBlob | undefined, way: Transfer['way'], reason?: LpsError): StoredBlob | undefined {
    if (found === undefined || isBytes(found.body)) return found;
    const { key, size } = found.info;
    found.body.once('end', () => this.#tell('get', key, size, way, reason));
    return found;
  }

  #tell(operation: Transfer['operation'], key: string, size: number, way: Transfer['way'], reason?: LpsError): void {
    const because = reason === undefined || size <= this.#aboveBytes ? {} : { reason };
    const tell = async (): Promise<void> => this.#onTransfer({ operation, key, size, way, ...because });
    tell().catch(() => {});
  }

  #faultOfAddress(url: string): LpsError | undefined {
    const { protocol } = URL.canParse(url) ? new URL(url) : { protocol: 'none' };
    if (protocol !== 'https:' && protocol !== 'http:') return unusable('its address is not one of http or https');
    const isDowngrade = protocol === 'http:' && this.#service.base.startsWith('https:');
    return isDowngrade ? unusable('it would be reached over http, and the service is reached over https') : undefined;
  }

  /** A failed transfer as the bucket's fault. Throws what is not, such as an abort. */
  #faultOf(objections: Objections, error: unknown, signal: AbortSignal | undefined): LpsError {
    // the time ran out before it was done: the next transfer must not lose it again
    if (signal?.aborted && isTimeout(signal)) objections.toAll(tooLate(error), pauseMs);
    if (!isLpsError(error) || ownFaults.has(error.code)) throw error;
    return error;
  }
}

/** What speaks against going past the service: for all blobs for some time, or for the next transfer of one. */
class Objections {
  readonly #clock: Clock;
  #toAll: { readonly reason: LpsError; readonly untilMs: number } | undefined;
  readonly #toNext = new Map<string, LpsError>(); // oldest first

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** To this transfer, which is then the next one. */
  to(key: string): LpsError | undefined {
    const own = this.#toNext.get(key);
    this.#toNext.delete(key);
    if (own !== undefined) return own;
    if (this.#toAll !== undefined && this.#clock.monotonicMs() >= this.#toAll.untilMs) this.#toAll = undefined;
    return this.#toAll?.reason;
  }

  toAll(reason: LpsError, forMs: number): void {
    this.#toAll = { reason, untilMs: this.#clock.monotonicMs() + forMs };
  }

  toNext(key: string, reason: LpsError): void {
    this.#toNext.set(key, reason);
    const [oldest] = this.#toNext.keys();
    if (this.#toNext.size > 1000 && oldest !== undefined) this.#toNext.delete(oldest);
  }
}

/** A checked body that came from the bucket: damage is named anew before anybody sees it. */
class BucketBody extends Passage {
  readonly #onDamage: (damage: LpsError) => LpsError;

  constructor(source: Readable, onDamage: (damage: LpsError) => LpsError) {
    super(source, { chunk: (chunk) => chunk, end: () => undefined });
    this.#onDamage = onDamage;
  }

  override destroy(error?: Error): this {
    return super.destroy(isLpsError(error, 'BLOB_DAMAGED') ? this.#onDamage(error) : error);
  }
}

/** The text of an answer without a blob; nothing when it cannot be read. */
async function answerOf({ body }: TransportResponse): Promise<string> {
  const bytes = await readAll(body, maxAnswerBytes).catch(() => new Uint8Array());
  return Buffer.from(bytes).toString();
}

function refusal(status: number, answer: string): LpsError {
  const name = /<Code>([A-Za-z]{1,64})<\/Code>/.exec(answer)?.[1]; // as S3 says it
  const mayPass = status >= 500 || status === 408 || status === 409 || status === 429;
  const message = `the bucket answered with status ${status}${name === undefined ? '' : ` (${name})`}`;
  return new LpsError(mayPass ? 'STORE_UNAVAILABLE' : 'STORE_REFUSED', message, { details: { status } });
}

function unusable(why: string): LpsError {
  return new LpsError('STORE_REFUSED', `the service names a bucket that must not be used: ${why}`);
}

function tooLate(cause: unknown): LpsError {
  return new LpsError('STORE_UNAVAILABLE', 'the transfer with the bucket was not done when the time was up', { cause });
}

function proxied(): LpsError {
  return new LpsError('NOT_SUPPORTED', 'the service moves this blob itself');
}

function replaces(): LpsError {
  return new LpsError('NOT_SUPPORTED', 'only the service replaces a blob');
}

/** The same for the caller, who may try again: the service will be asked then. */
function again(reason: LpsError): LpsError {
  if (reason.retryable) return reason;
  const message = `${reason.message}; the next attempt goes through the service`;
  return new LpsError('STORE_UNAVAILABLE', message, { details: reason.details, cause: reason });
}

/** Whether it was aborted because a deadline had passed, and not because nobody wants the blob any more. */
function isTimeout({ reason }: AbortSignal): boolean {
  return isLpsError(reason, 'TOO_SLOW') || (reason instanceof Error && reason.name === 'TimeoutError');
}
