/** The memory of a service that decodes: 200 claims of 1 MiB in one request, and bombs. */
import { createHash, randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { deflateSync, gzipSync } from 'node:zlib';
import { ClaimCheck, formatClaim, openHttpStore } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import proto from '@temporalio/proto';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { payloadToJson } from './support/codec-client.ts';
import { newDataDir, type RunningService, startService } from './support/service.ts';

const onLinux = it.skipIf(process.platform !== 'linux'); // which shows a process's memory in /proc
const MiB = 1024 * 1024;
const count = 200;
/** docs/codec-server.md: twice `--codec-memory-bytes`, and once more where codecs unpack. */
const boundMiB = 2 * 256;
const boundWithCodecsMiB = 3 * 256;
const namespace = 'memory';
const dataDir = await newDataDir();

const payloads: Payload[] = Array.from({ length: count }, () => ({
  metadata: { encoding: Buffer.from('binary/plain') },
  data: new Uint8Array(randomBytes(MiB)),
}));
let claims: Payload[];
let service: RunningService | undefined;

beforeAll(async () => {
  const { url, stop } = await startService({ dataDir });
  const store = openHttpStore({ url });
  const claimCheck = new ClaimCheck({ store, namespace, cacheBytes: 0, deadlineMs: 60_000 });
  claims = (await claimCheck.depositAll(payloads)).map((claim) => formatClaim(claim));
  await store.close?.();
  await stop();
});
afterEach(() => service?.stop());
afterAll(() => {
  payloads.length = 0;
});

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly sha256: string;
  /** How far the service's memory rose above what it was, in MiB. */
  readonly roseMiB: number;
}

/** The answer goes into a hash: here, too, nobody needs all of it at once. */
async function post(
  { port, pid }: RunningService,
  path: string,
  body: string | Buffer,
  more: http.OutgoingHttpHeaders = {},
): Promise<Answer> {
  await writeFile(`/proc/${pid}/clear_refs`, '5'); // the high-water mark begins anew
  const before = await statusMiB(pid, 'VmRSS');
  const hash = createHash('sha256');
  const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
    const headers = { 'content-type': 'application/json', ...more };
    const sent = http.request({ host: '127.0.0.1', port, path, method: 'POST', headers }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => {
        hash.update(chunk);
        if (text.length < 1000) text += chunk.toString('latin1').slice(0, 1000);
      });
      response.on('error', reject).on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    sent.on('error', reject).end(body);
  });
  const roseMiB = (await statusMiB(pid, 'VmHWM')) - before;
  return { status, text, sha256: hash.digest('hex'), roseMiB };
}

async function statusMiB(pid: number, name: string): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  return Math.round(Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]) / 1024);
}

const bodyOf = (some: readonly Payload[]): string => JSON.stringify({ payloads: some.map(payloadToJson) });

function sha256Of(some: readonly Payload[]): string {
  const hash = createHash('sha256').update('{"payloads":[');
  for (const [index, one] of some.entries())
    hash.update(`${index > 0 ? ',' : ''}${JSON.stringify(payloadToJson(one))}`);
  return hash.update(']}').digest('hex');
}

onLinux('refuses 200 claims of 1 MiB in a line that says what to do, before it reads any', async () => {
  service = await startService({ dataDir });
  const answer = await post(service, '/decode', bodyOf(claims));
  expect(answer).toMatchObject({
    status: 413,
    text: `the answer would have ${count * MiB} bytes of payloads, and --codec-response-bytes allows ${64 * MiB}: ask for fewer payloads at a time`,
  });
  expect(answer.roseMiB).toBeLessThan(50);
  const some = await post(service, '/decode', bodyOf(claims.slice(0, 60)));
  expect([some.status, some.sha256]).toEqual([200, sha256Of(payloads.slice(0, 60))]);
  expect(some.roseMiB).toBeLessThan(boundMiB);
});

onLinux('lets requests wait for the memory of others', async () => {
  service = await startService({ dataDir });
  const sixty = { body: bodyOf(claims.slice(0, 60)), sha256: sha256Of(payloads.slice(0, 60)) };
  const running = service;
  const answers = await Promise.all(Array.from({ length: 12 }, () => post(running, '/decode', sixty.body)));
  expect(new Set(answers.map(({ status, sha256 }) => `${status} ${sha256}`))).toEqual(new Set([`200 ${sixty.sha256}`]));
  expect(Math.max(...answers.map(({ roseMiB }) => roseMiB))).toBeLessThan(boundMiB);
});

onLinux('lets bodies wait as well', async () => {
  service = await startService({ dataDir });
  const running = service;
  const inline = payloads.slice(0, 45);
  const [body, sha256] = [bodyOf(inline), sha256Of(inline)];
  const answers = await Promise.all(Array.from({ length: 6 }, () => post(running, '/decode', body)));
  expect(new Set(answers.map(({ status, sha256 }) => `${status} ${sha256}`))).toEqual(new Set([`200 ${sha256}`]));
  expect(Math.max(...answers.map(({ roseMiB }) => roseMiB))).toBeLessThan(boundMiB);
  const tooLarge = await post(running, '/decode', bodyOf(payloads.slice(0, 60)));
  expect(tooLarge).toMatchObject({ status: 413, text: `the request body has more than ${64 * MiB} bytes` });
});

onLinux('answers them where it is allowed to, in the memory that it was given for it', async () => {
  service = await startService({ dataDir, args: ['--codec-response-bytes', '256MiB'] });
  const expected = sha256Of(payloads);
  for (let round = 0; round < 2; round += 1) {
    const answer = await post(service, '/decode', bodyOf(claims));
    expect([answer.status, answer.sha256]).toEqual([200, expected]);
    expect(answer.roseMiB).toBeLessThan(boundMiB);
  }
});

onLinux('refuses bombs within it', async () => {
  service = await startService({ dataDir, args: ['--codec-pre-storage', 'zlib'] });
  const bomb = zlibOf(256 * MiB);
  for (const some of [[bomb], Array<Payload>(10).fill(bomb), Array<Payload>(5000).fill(zlibOf(MiB))]) {
    const answer = await post(service, '/decode', bodyOf(some));
    expect([answer.status, answer.text]).toEqual([413, expect.stringMatching(/^[^\n]{1,200}$/)]);
    expect(answer.roseMiB).toBeLessThan(boundMiB);
  }
  const running = service;
  const together = await Promise.all(Array.from({ length: 16 }, () => post(running, '/decode', bodyOf([bomb]))));
  expect(new Set(together.map(({ status }) => status))).toEqual(new Set([413]));
  expect(Math.max(...together.map(({ roseMiB }) => roseMiB))).toBeLessThan(boundWithCodecsMiB);
  const packed = gzipSync(Buffer.alloc(256 * MiB, '['));
  const gzip = await post(running, '/decode', packed, { 'content-encoding': 'gzip' });
  expect(gzip).toMatchObject({ status: 400, text: 'the body must not be compressed' });
  expect(gzip.roseMiB).toBeLessThan(50);
  for (const body of ['['.repeat(20 * MiB), `{"payloads":[${'{},'.repeat(7 * MiB)}{}]}`]) {
    const answer = await post(service, '/decode', body);
    expect([answer.status, answer.text]).toEqual([
      400,
      expect.stringMatching(/^not proto JSON of payloads: it has more than/),
    ]);
    expect(answer.roseMiB).toBeLessThan(boundMiB);
  }
});

/** Zeroes, packed by the codec zlib of Temporal's samples. */
function zlibOf(bytes: number): Payload {
  const { Payload: PayloadProto } = proto.temporal.api.common.v1;
  const data = deflateSync(PayloadProto.encode({ data: new Uint8Array(bytes) }).finish());
  return { metadata: { encoding: Buffer.from('binary/zlib') }, data: new Uint8Array(data) };
}
