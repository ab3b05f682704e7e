import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ClaimCheck, formatClaim, memoryStore } from '@large-payload/core';
import { EncryptionCodec, LargePayloadDriver } from '@large-payload/temporal';
import { tempDir } from '@large-payload/test-components';
import type { Payload } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { byDriver, codecConfig, kinds, namespace, newWorld, plain } from './codec-fixture.js';
import { parseKeys } from './codec-modules.js';
import { type CodecConfig, type OpenedCodec, openCodec } from './configured.js';
import type { CodecCall } from './pipeline.js';

const MiB = 1024 * 1024;
function open(config: Partial<CodecConfig> = {}, store = memoryStore()): Promise<OpenedCodec> {
  return openCodec({ ...codecConfig, ...config }, store);
}

function callOf({ codec }: OpenedCodec): CodecCall {
  return { signal: new AbortController().signal, hold: codec.answers.hold(), namespace };
}

const encodingOf = ({ metadata }: Payload): string => Buffer.from(metadata?.encoding ?? []).toString();
const key = (fill: number): string => Buffer.alloc(32, fill).toString('base64');

async function moduleOf(source: string): Promise<string> {
  const path = join(tempDir('codec'), 'codec.mjs');
  await writeFile(path, source);
  return path;
}

async function refusal(config: Partial<CodecConfig>): Promise<string> {
  try {
    await open(config);
    return 'none';
  } catch (error) {
    return `${(error as { code?: string }).code}: ${(error as Error).message}`;
  }
}

describe('the codec server of lps serve', () => {
  it('resolves what codec and driver stored in its own store, and forgets nothing that is taken down', async () => {
    const store = memoryStore();
    const claimCheck = new ClaimCheck({ store, namespace });
    const opened = await open({}, store);
    const payload = plain(5000);
    const claim = await claimCheck.deposit(payload);
    const sent = [await byDriver(new LargePayloadDriver({ claimCheck }), payload), formatClaim(claim)];
    const decoded = await opened.codec.decode(sent, callOf(opened));
    expect(decoded.map(({ data }) => data)).toEqual([payload.data, payload.data]);
    await store.delete(claim.key);
    for (const one of sent) {
      await expect(opened.codec.decode([one], callOf(opened))).rejects.toMatchObject({
        code: 'BLOB_NOT_FOUND',
        status: 424,
      });
    }
    await opened.close();
  });

  it('runs the codecs that are named: those built in, and modules', async () => {
    const source = (mark: string): string => `
      const mark = (payload) => ({ ...payload, metadata: { ...payload.metadata, ${mark}: new Uint8Array([1]) } });
      const unmark = ({ metadata: { ${mark}: _, ...metadata }, ...payload }) => ({ ...payload, metadata });
      const codec = { encode: async (all) => all.map(mark), decode: async (all) => all.map(unmark) };
    `;
    const store = memoryStore();
    const opened = await open(
      {
        codecPreStorage: ['zlib', 'aes-gcm'],
        codecKeys: ` new=${key(1)},\n old=${key(2)}\n`,
        codecKeyId: 'old',
        codecDeterministic: true,
        codecPostStorage: [
          await moduleOf(`${source('a')} export default codec;`),
          await moduleOf(`${source('b')} export { codec };`),
          await moduleOf(`${source('c')} export const codecs = [codec];`),
        ],
      },
      store,
    );
    const payloads = [plain(Buffer.alloc(200_000, 'abc')), plain(5000)];
    const encoded = await opened.codec.encode(payloads, callOf(opened));
    expect(encoded.map(encodingOf)).toEqual(['binary/encrypted', 'json/protobuf']);
    for (const one of encoded) expect(Object.keys(one.metadata ?? {})).toEqual(expect.arrayContaining(['a', 'b', 'c']));
    expect(Buffer.from(encoded[0]?.metadata?.['encryption-key-id'] ?? []).toString()).toBe('old');
    const decoded = await opened.codec.decode(encoded, callOf(opened));
    expect(decoded.map(({ data }) => data?.length)).toEqual([200_000, 5000]);
    expect(await opened.codec.encode(payloads, callOf(opened))).toEqual(encoded); // deterministic
    const stored: number[] = [];
    for await (const { size } of store.list('/blobs/')) stored.push(size);
    expect(stored).toHaveLength(1);
    const read = new EncryptionCodec({ keys: parseKeys(`old=${key(2)}`), keyId: 'old' });
    expect(await read.decode([encoded[0] ?? {}])).toHaveLength(1);
  });

  it('writes the Go codec’s claims when it is told to', async () => {
    const opened = await open({ codecClaims: 'go' });
    const [claim] = await opened.codec.encode([plain(5000)], callOf(opened));
    expect(Buffer.from(claim?.metadata?.['temporal.io/remote-codec'] ?? []).toString()).toBe('v2');
  });

  it('follows references of Temporal’s drivers only with buckets to look in', async () => {
    const world = newWorld();
    const theirs = await Promise.all([
      kinds['Temporal’s S3 driver'](world, plain()),
      kinds['Temporal’s GCS driver'](world, plain()),
    ]);
    const none = await open();
    const other = await open({
      temporalS3Buckets: ['other'],
      temporalGcsBuckets: ['other'],
      s3Endpoint: 'http://127.0.0.1:9',
      gcsEndpoint: 'http://127.0.0.1:9',
    });
    for (const reference of theirs) {
      await expect(none.codec.decode([reference], callOf(none))).rejects.toThrow(/there is no driver/);
      await expect(other.codec.decode([reference], callOf(other))).rejects.toThrow(/bucket "theirs" is not one/);
    }
    await other.close();
  });

  it('names its limits as the operator knows them', async () => {
    const opened = await open({ codecResponseBytes: MiB });
    await expect(opened.codec.decode([plain(2 * MiB)], callOf(opened))).rejects.toThrow(
      /--codec-response-bytes allows 1048576/,
    );
  });

  it('does not start with codecs that cannot be', async () => {
    const wrong: [string, Partial<CodecConfig>][] = [
      ['needs --codec-keys', { codecPreStorage: ['aes-gcm'] }],
      ['there is no key "c"', { codecPreStorage: ['aes-gcm'], codecKeys: `a=${key(1)}`, codecKeyId: 'c' }],
      ['the key "a" is not base64 of 32 bytes', { codecPreStorage: ['aes-gcm'], codecKeys: 'a=AAAA' }],
      ['entry 1 is not an id', { codecPreStorage: ['aes-gcm'], codecKeys: key(1).replace('=', '') }],
      ['two keys "a"', { codecPreStorage: ['aes-gcm'], codecKeys: `a=${key(1)},a=${key(2)}` }],
      ['nowhere.js cannot be loaded', { codecPreStorage: ['./nowhere.js'] }],
      ['cannot be loaded', { codecPostStorage: ['no-such-package-anywhere'] }],
      ['exports none of', { codecPreStorage: [await moduleOf('export const other = 1;')] }],
      ['does not export PayloadCodecs', { codecPreStorage: [await moduleOf('export default { encode() {} };')] }],
      ['does not export PayloadCodecs', { codecPreStorage: [await moduleOf('export default [];')] }],
      ['cannot be loaded: it is broken', { codecPreStorage: [await moduleOf('throw new Error("it is broken");')] }],
    ];
    for (const [words, config] of wrong) {
      const said = await refusal(config);
      expect(said).toMatch(/^CONFIG_INVALID: [^\n]+$/);
      expect(said).toContain(words);
      expect(said).not.toContain(key(1).slice(0, 10));
    }
  });
});
