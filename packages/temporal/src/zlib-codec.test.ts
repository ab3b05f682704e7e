import { deflateSync } from 'node:zlib';
import { ApplicationFailure, type Payload } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { encodePayload } from './payload-proto.js';
import { ZlibCodec } from './zlib-codec.js';

const codec = new ZlibCodec();

function payload(text: string): Payload {
  return { metadata: { encoding: Buffer.from('json/plain') }, data: Buffer.from(text) };
}

function plain({ metadata, data }: Payload): unknown {
  const entries = Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString()]);
  return { metadata: Object.fromEntries(entries), data: Buffer.from(data ?? []).toString() };
}

function zipped(bytes: Uint8Array): Payload {
  return { metadata: { encoding: Buffer.from('binary/zlib') }, data: new Uint8Array(deflateSync(bytes)) };
}

describe('the zlib codec', () => {
  it('gives back what went in, in order, and makes it smaller', async () => {
    const payloads = [
      payload('a'.repeat(10_000)),
      payload('b'.repeat(5000)),
      { metadata: {}, data: Buffer.alloc(3000) },
    ];
    const encoded = await codec.encode(payloads);
    for (const one of encoded) {
      expect(plain(one)).toMatchObject({ metadata: { encoding: 'binary/zlib' } });
      expect(one.data?.length).toBeLessThan(200);
    }
    expect((await codec.decode(encoded)).map(plain)).toEqual(payloads.map(plain));
  });

  it('reads what zlib itself wrote, and leaves other payloads as they are', async () => {
    const one = payload('hello');
    const [read, other] = await codec.decode([zipped(encodePayload(one)), one]);
    expect(read && plain(read)).toEqual(plain(one));
    expect(other).toBe(one);
  });

  it('leaves alone what would get larger, unless told', async () => {
    const one = payload('x');
    expect(await codec.encode([one])).toEqual([one]);
    const [encoded] = await new ZlibCodec({ always: true }).encode([one]);
    expect(encoded && plain(encoded)).toMatchObject({ metadata: { encoding: 'binary/zlib' } });
  });

  it('is the same for the same payload', async () => {
    const one = payload('a'.repeat(1000));
    const sorted = { metadata: { a: Buffer.from('1'), encoding: Buffer.from('x') }, data: one.data ?? null };
    const unsorted = { metadata: { encoding: Buffer.from('x'), a: Buffer.from('1') }, data: one.data ?? null };
    const [first, second] = await codec.encode([sorted, unsorted]);
    expect(first).toEqual(second);
  });

  it('refuses a bomb while it is unpacked, and bytes that are none of zlib’s', async () => {
    const bomb = zipped(encodePayload(payload('0'.repeat(5_000_000))));
    const failed = await new ZlibCodec({ maxBytes: 1_000_000 }).decode([bomb]).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(ApplicationFailure);
    expect(failed).toMatchObject({ type: 'LargePayload.BLOB_TOO_LARGE', nonRetryable: true });
    for (const data of [new Uint8Array(), Buffer.from('not zlib'), deflateSync(Buffer.from([0xff, 0xff]))]) {
      const wrong = { metadata: { encoding: Buffer.from('binary/zlib') }, data: new Uint8Array(data) };
      await expect(codec.decode([wrong])).rejects.toMatchObject({ type: 'LargePayload.BLOB_DAMAGED' });
    }
    expect(() => new ZlibCodec({ maxBytes: 0 })).toThrow('maxBytes');
  });
});
