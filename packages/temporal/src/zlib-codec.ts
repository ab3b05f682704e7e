/**
 * Compression, in the format of `converter.NewZlibCodec` of Temporal's Go SDK and its samples:
 *
 *   metadata  encoding: binary/zlib
 *   data      zlib of the serialized payload
 */
import { promisify } from 'node:util';
import { deflate, inflate } from 'node:zlib';
import { LpsError } from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { withFailures } from './failure.js';
import { decodePayload, encodePayload, encodingOf } from './payload-proto.js';

export interface ZlibCodecOptions {
  /** Encodes also what does not get smaller by it. Default false, as in Go. */
  readonly always?: boolean;
  /** A payload that would be larger is refused while it is unpacked, in bytes. Default 256 MiB. */
  readonly maxBytes?: number;
}

const encoding = 'binary/zlib';
const compress = promisify(deflate);
const expand = promisify(inflate) as (bytes: Uint8Array, options: { maxOutputLength: number }) => Promise<Buffer>;

/** Put it before encryption: what is encrypted does not get smaller any more. */
export class ZlibCodec implements PayloadCodec {
  readonly #always: boolean;
  readonly #maxBytes: number;

  /** Throws CONFIG_INVALID. */
  constructor({ always = false, maxBytes = 256 * 1024 * 1024 }: ZlibCodecOptions = {}) {
    if (!Number.isSafeInteger(maxBytes) || maxBytes < 1)
      throw new LpsError('CONFIG_INVALID', '`maxBytes` must be a number of bytes');
    this.#always = always;
    this.#maxBytes = maxBytes;
  }

  async encode(payloads: Payload[]): Promise<Payload[]> {
    return Promise.all(
      payloads.map(async (payload) => {
        const bytes = encodePayload(payload);
        const data = new Uint8Array(await compress(bytes));
        const isSmaller = data.length < bytes.length;
        return this.#always || isSmaller ? { metadata: { encoding: Buffer.from(encoding) }, data } : payload;
      }),
    );
  }

  /** Payloads of other encodings as they are. Throws `ApplicationFailure` with BLOB_TOO_LARGE, BLOB_DAMAGED. */
  async decode(payloads: Payload[]): Promise<Payload[]> {
    return withFailures(undefined, () => Promise.all(payloads.map((payload) => this.#decoded(payload))));
  }

  async #decoded(payload: Payload): Promise<Payload> {
    if (encodingOf(payload) !== encoding) return payload;
    try {
      return decodePayload(await expand(payload.data ?? new Uint8Array(), { maxOutputLength: this.#maxBytes }));
    } catch (cause) {
      if ((cause as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE')
        throw new LpsError('BLOB_TOO_LARGE', `a compressed payload has more than ${this.#maxBytes} bytes`, { cause });
      throw new LpsError('BLOB_DAMAGED', 'a compressed payload cannot be unpacked', { cause });
    }
  }
}
