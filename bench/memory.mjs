// npm run bench -- --memory: what the service holds while large blobs pass through it.
import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { startOurs } from './servers.mjs';
import { renderTable } from './table.mjs';
import { childrenUsage, cpuSeconds, peakRssMiB, resetPeakRss, rssMiB } from './usage.mjs';

const MiB = 2 ** 20;
const blobsEachWay = 4;
const sampleMs = 100;
const silenceMs = 120_000;
const metadata = Buffer.from(JSON.stringify({ encoding: Buffer.from('binary/plain').toString('base64') })).toString(
  'base64',
);

export async function runMemory({ stores, sizes, gateway, serve, node, quick, report }) {
  const rows = [];
  for (const store of stores) {
    for (const size of quick ? [{ name: '16MiB', bytes: 16 * MiB }] : sizes) {
      const server = await startOurs({ store, gateway, serve, node });
      try {
        const result = { store, size_name: size.name, phase: 'memory', ...(await measure(server, size.bytes)) };
        report(result);
        const { seconds, MB_s, cpu_s, idle_rss_MiB, peak_rss_MiB, median_rss_MiB, database_MiB } = result;
        rows.push([store, size.name, seconds, MB_s, cpu_s, idle_rss_MiB, median_rss_MiB, peak_rss_MiB, database_MiB]);
      } finally {
        await server.remove();
      }
    }
  }
  const head = [
    'store',
    'size',
    'seconds',
    'MB/s',
    'CPU s',
    'idle RSS MiB',
    'median RSS MiB',
    'peak RSS MiB',
    'DB MiB',
  ];
  console.log(
    [`\n${blobsEachWay} uploads and ${blobsEachWay} downloads at once:`, ...renderTable(head, rows)].join('\n'),
  );
}

async function measure(server, size) {
  const before = Array.from({ length: blobsEachWay }, (_, number) => describeBlob(number, size));
  const during = Array.from({ length: blobsEachWay }, (_, number) => describeBlob(blobsEachWay + number, size));
  // one after the other: this is not what is measured
  for (const blob of before) await upload(server.url, blob);
  await server.restart();
  await sleep(1000);

  const idle = rssMiB(server.pid);
  const cpuBefore = cpuSeconds(server.pid);
  resetPeakRss(server.pid);
  const samples = [];
  const sampler = setInterval(() => samples.push(rssMiB(server.pid) ?? 0), sampleMs);
  const startedAt = performance.now();
  try {
    const uploads = during.map((blob) => upload(server.url, blob));
    const downloads = before.map((blob) => download(server.url, blob));
    await Promise.all([...uploads, ...downloads]);
  } finally {
    clearInterval(sampler);
  }
  const seconds = (performance.now() - startedAt) / 1000;
  // the kernel's own peak, where it tells it: a short one falls between two samples
  const peak = Math.max(peakRssMiB(server.pid) ?? 0, ...samples);
  return {
    uploads: blobsEachWay,
    downloads: blobsEachWay,
    size,
    seconds: Number(seconds.toFixed(1)),
    MB_s: Math.round((2 * blobsEachWay * size) / 1e6 / seconds),
    cpu_s: Number((cpuSeconds(server.pid) - cpuBefore).toFixed(1)),
    idle_rss_MiB: Math.round(idle ?? 0),
    median_rss_MiB: Math.round(samples.sort((a, b) => a - b)[samples.length >> 1] ?? 0),
    peak_rss_MiB: Math.round(peak),
    database_MiB: Math.round(childrenUsage(server.pid).pssMiB),
  };
}

/** Blobs that no memory holds: 1 MiB over and over, the first bytes of each being its place and the blob's number. */
export function* chunksOf(number, size) {
  const pattern = Buffer.alloc(Math.min(size, MiB), createHash('sha256').update('pattern').digest());
  for (let at = 0; at < size; at += pattern.length) {
    const chunk = Buffer.from(pattern.subarray(0, Math.min(pattern.length, size - at)));
    if (chunk.length >= 8) chunk.writeBigUInt64LE(BigInt(number) * 2n ** 48n + BigInt(at));
    yield chunk;
  }
}

export function describeBlob(number, size) {
  const hash = createHash('sha256');
  for (const chunk of chunksOf(number, size)) hash.update(chunk);
  return { number, size, digest: `sha256:${hash.digest('hex')}`, key: undefined };
}

/** Sends a blob as fast as it is taken, and keeps the key that comes back. */
async function upload(url, blob) {
  const path = `/v2/blobs/put?namespace=bench&digest=${encodeURIComponent(blob.digest)}`;
  const headers = { 'content-length': blob.size, 'x-temporal-metadata': metadata };
  const { status, body } = await exchange('PUT', `${url}${path}`, headers, chunksOf(blob.number, blob.size));
  const text = await textOf(body);
  if (status !== 201) throw new Error(`upload: ${status} ${text}`);
  blob.key = JSON.parse(text).Key;
}

/** Reads a blob, and throws it away as soon as it is hashed. */
async function download(url, blob) {
  const path = `/v2/blobs/get?key=${encodeURIComponent(blob.key)}`;
  const { status, body } = await exchange('GET', `${url}${path}`, { 'x-payload-expected-content-length': blob.size });
  const hash = createHash('sha256');
  for await (const chunk of body) hash.update(chunk);
  if (status !== 200) throw new Error(`download: ${status}`);
  if (`sha256:${hash.digest('hex')}` !== blob.digest) throw new Error('download: wrong bytes');
}

function exchange(method, url, headers, chunks = []) {
  return new Promise((resolve, reject) => {
    const all = { 'content-type': 'application/octet-stream', ...headers };
    const sent = request(url, { method, headers: all, agent: false, timeout: silenceMs });
    sent.on('response', (response) => resolve({ status: response.statusCode, body: response }));
    sent.on('timeout', () => sent.destroy(new Error(`${method}: silent for ${silenceMs} ms`)));
    sent.on('error', reject);
    send(sent, chunks).catch(reject);
  });
}

async function send(request, chunks) {
  for (const chunk of chunks) {
    if (request.destroyed) return;
    if (!request.write(chunk)) await new Promise((resolve) => request.once('drain', resolve).once('close', resolve));
  }
  request.end();
}

async function textOf(body) {
  let text = '';
  for await (const chunk of body) text += chunk;
  return text;
}
