/** A cache node between workers and a service, each a process of its own, over lines that fail. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tempDir } from '@large-payload/test-components';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  metric,
  newBlob,
  put,
  RawConnection,
  read,
  request,
  rightRead,
  sized,
  type V2Blob,
} from './support/blobs.ts';
import { type CacheNodeProcess, startCacheNode, statusOf, untilFresh } from './support/cache-node.ts';
import { lps } from './support/lps.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { takeDown } from './support/takedowns.ts';
import { until } from './support/until.ts';
import { startUpstreamProxy, type UpstreamProxy } from './support/upstream-proxy.ts';

const MiB = 1024 * 1024;
/** Longer than a machine may hold anybody up: what is shown here needs leases that last. */
const M = 30_000;

describe('a cache node', () => {
  let service: RunningService;
  let proxy: UpstreamProxy;
  let node: CacheNodeProcess;
  const others: CacheNodeProcess[] = [];
  const start = async (args: readonly string[] = [], cacheDir?: string): Promise<CacheNodeProcess> => {
    const limits = ['--cache-disk-bytes', '128MiB', '--cache-memory-bytes', '8MiB', '--max-staleness', `${M}ms`];
    const place = cacheDir === undefined ? {} : { cacheDir };
    const started = await startCacheNode({ upstream: proxy.url, args: [...limits, ...args], ...place });
    others.push(started);
    return started;
  };

  beforeAll(async () => {
    // a takedown that waits for M is not waited for at the end
    const times = ['--max-staleness', `${M}ms`, '--unsafe-times', '--grace', '48s', '--shutdown-timeout', '1s'];
    service = await startService({ args: times });
    proxy = await startUpstreamProxy(service.url);
    node = await start();
    await untilFresh(node);
    // what a replica without a lease answers is not kept
    await until('a lease of the service', async () =>
      (await metric(service.port, 'lps_read_lease_fresh')) === 1 ? true : undefined,
    );
  });
  afterEach(() => {
    proxy.away(false);
    proxy.onBody = undefined;
    proxy.before = undefined;
  });
  afterAll(async () => {
    await Promise.all(others.map((one) => one.stop()));
    await proxy?.close();
    await service?.stop();
  });

  /** A blob that only the service has. */
  const stored = async (size: number): Promise<V2Blob> => {
    const blob = newBlob(size);
    expect((await put(service.port, blob)).status).toBe(201);
    return blob;
  };
  const gets = (): number => proxy.requests.filter((line) => line === 'GET /v3/blobs').length;
  const heads = (): number => proxy.requests.filter((line) => line === 'HEAD /v3/blobs').length;
  const get = (blob: V2Blob, headers = {}, port = node.port) =>
    request(port, `/v3/blobs?${new URLSearchParams({ key: blob.key })}`, { headers });
  /** Its file, once it has its name. */
  const fileOf = ({ digest }: V2Blob, dir = node.cacheDir): Promise<string> =>
    until('a file of the disk cache', async () => {
      const names = readdirSync(join(dir, 'kept'), { recursive: true, encoding: 'utf8' });
      const name = names.find((one) => one.includes(`/${digest.slice('sha256:'.length)}.`));
      return name && join(dir, 'kept', name);
    });

  it('asks upstream once for what is read again', async () => {
    for (const size of [0, 1000, 3 * MiB]) {
      const blob = await stored(size);
      const before = gets();
      for (let at = 0; at < 3; at += 1) expect(await read(node.port, sized(blob))).toEqual(rightRead);
      expect([gets() - before, await metric(node.port, 'lps_cache_lease_fresh')]).toEqual([1, 1]);
    }
  });

  it('asks upstream once for fifty who read at the same time, and streams on what has come', async () => {
    const blob = await stored(3 * MiB);
    const before = gets();
    const { joined } = (await statusOf(node)).served;
    let letGo = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    proxy.onBody = async (chunk, offset) => {
      if (offset > MiB) await gate;
      return chunk;
    };
    const early = await RawConnection.open(node.port);
    await early.write(`GET /v3/blobs?${new URLSearchParams({ key: blob.key })} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    const readers = Array.from({ length: 49 }, () => read(node.port, sized(blob)));
    await until('half a MiB', async () => early.received.length > MiB / 2 || undefined); // long before the end
    await until(
      '49 who joined',
      async () => (await statusOf(node)).served.joined.blobs === joined.blobs + 49 || undefined,
    );
    letGo();
    expect(await Promise.all(readers)).toEqual(Array(49).fill(rightRead));
    early.destroy();
    expect(gets() - before).toBe(1);
  });

  it('keeps what is written through it, and is as quick to say that it exists', async () => {
    for (const size of [1000, 3 * MiB]) {
      const blob = newBlob(size);
      const before = gets();
      expect((await put(node.port, blob)).status).toBe(201);
      await fileOf(blob);
      expect(await read(node.port, sized(blob))).toEqual(rightRead);
      expect(await read(service.port, sized(blob))).toEqual(rightRead);
      expect(gets()).toBe(before);
      expect((await put(node.port, blob)).status).toBe(200);
    }
    const wrong = newBlob(1000);
    expect((await put(node.port, wrong, { body: newBlob(1000).bytes })).status).toBe(400);
    expect((await get(wrong)).status).toBe(404);
  });

  it('serves a part of what it keeps, and of what it does not', async () => {
    const blob = await stored(2 * MiB);
    for (const isKept of [false, true]) {
      const { status, headers, body } = await get(blob, { range: 'bytes=1000000-1000099' });
      expect([status, headers['content-range']]).toEqual([206, `bytes 1000000-1000099/${2 * MiB}`]);
      expect(body.equals(blob.bytes.subarray(1_000_000, 1_000_100))).toBe(true);
      if (!isKept) await read(node.port, sized(blob));
    }
    expect((await get(blob, { range: `bytes=${2 * MiB}-` })).status).toBe(416);
  });

  it('never ends an answer cleanly that upstream cut off or changed, and keeps nothing of it', async () => {
    const faults: UpstreamProxy['onBody'][] = [
      (chunk, offset) => (offset > 100_000 ? undefined : chunk),
      (chunk, offset) => (offset > 100_000 ? Buffer.alloc(chunk.length) : chunk),
    ];
    for (const fault of faults) {
      for (const size of [300_000, 3 * MiB]) {
        const blob = await stored(size);
        proxy.onBody = fault;
        const reads = await Promise.all([1, 2, 3].map(() => read(node.port, sized(blob))));
        expect(reads.map(({ isRight }) => isRight)).toEqual([false, false, false]);
        proxy.onBody = undefined;
        expect(await read(node.port, sized(blob))).toEqual(rightRead);
      }
    }
  });

  it('finds a bit that was flipped on its disk, drops the file and fetches the blob again', async () => {
    const quiet = await start(['--cache-memory-bytes', '0']);
    await untilFresh(quiet);
    for (const size of [5000, 3 * MiB]) {
      const blob = await stored(size);
      await read(quiet.port, sized(blob));
      const path = await fileOf(blob, quiet.cacheDir);
      const { disk } = (await statusOf(quiet)).served;
      await until('a read from the disk', async () => {
        await read(quiet.port, sized(blob));
        return (await statusOf(quiet)).served.disk.blobs > disk.blobs || undefined;
      });
      const bytes = readFileSync(path);
      bytes[size - 7] = (bytes[size - 7] ?? 0) ^ 4;
      writeFileSync(path, bytes);
      const before = gets();
      const first = await read(quiet.port, sized(blob));
      // a small one is looked at before its first byte goes out; a large one breaks off, and its reader comes again
      if (size === 5000) expect(first).toEqual(rightRead);
      else expect(first.isRight).toBe(false);
      if (first.isRight) await until('a new file', async () => (await statusOf(quiet)).disk.blobs === 1 || undefined);
      expect(await read(quiet.port, sized(blob))).toEqual(rightRead);
      expect(gets() - before).toBe(1);
      expect(quiet.output()).toContain('the disk cache failed');
    }
  });

  it('forgets what was taken down, and cuts off who reads it', async () => {
    const blob = await stored(60 * MiB); // more than fits into sockets: some systems give one 32 MiB
    await read(node.port, sized(blob));
    const slow = await RawConnection.open(node.port);
    slow.socket.pause();
    await slow.write(`GET /v3/blobs?${new URLSearchParams({ key: blob.key })} HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    await takeDown(service.port, { selector: { namespace: 'default', key: blob.key } });
    const answer = await until('an answer that it is gone', async () => {
      const found = await get(blob);
      return found.status === 410 ? found : undefined;
    });
    expect(codeOf(answer)).toBe('BLOB_TAKEN_DOWN');
    await until('the event', async () => (await statusOf(node)).lease.applied > 0 || undefined);
    slow.socket.resume();
    expect((await slow.untilClosed()).length).toBeLessThan(60 * MiB);
    expect((await get(newBlob(10))).status).toBe(404);
  });

  it('revalidates each read without a lease, and serves nothing while upstream is away', async () => {
    const quick = await start(['--max-staleness', '4s']);
    await untilFresh(quick);
    const blob = await stored(10_000);
    await read(quick.port, sized(blob));
    proxy.before = (incoming) => {
      if (incoming.url?.startsWith('/v3/nodes/')) throw new Error('no lease');
    };
    await untilFresh(quick, false);
    const [headsBefore, getsBefore] = [heads(), gets()];
    for (let at = 0; at < 3; at += 1) expect(await read(quick.port, sized(blob))).toEqual(rightRead);
    expect([heads() - headsBefore, gets() - getsBefore]).toEqual([3, 0]);
    proxy.away(true);
    const { status, headers, text } = await get(blob, {}, quick.port);
    expect([status, headers['retry-after'], codeOf({ text })]).toEqual([503, '1', 'SERVICE_UNREACHABLE']);
    expect((await request(quick.port, '/readyz')).status).toBe(503);
    expect((await request(quick.port, '/healthz')).status).toBe(200);
    proxy.away(false);
    proxy.before = undefined;
    await untilFresh(quick);
    expect((await request(quick.port, '/readyz')).status).toBe(200);
    const before = heads();
    expect(await read(quick.port, sized(blob))).toEqual(rightRead);
    expect([heads() - before, gets() - getsBefore]).toEqual([0, 0]);
  });

  it('tells upstream of what was read here', async () => {
    const blob = await stored(10_000);
    await read(node.port, sized(blob));
    const digest = blob.digest.slice('sha256:'.length);
    const text = `SELECT touched_at, touched_at < now() - interval '3 seconds' AS is_old FROM lps.blob WHERE encode(digest, 'hex') = $1`;
    const row = async () =>
      (await queryCatalog<{ touched_at: Date; is_old: boolean }>(service.dataDir, text, [digest]))[0];
    // with 48 s of grace a use is written down every 2 s
    const before = await until('a use long ago', async () => ((await row())?.is_old ? await row() : undefined));
    expect(await read(node.port, sized(blob))).toEqual(rightRead);
    await until(
      'a row that was touched',
      async () => ((await row())?.touched_at ?? 0) > before.touched_at || undefined,
    );
    expect((await statusOf(node)).touches.forwarded).toBeGreaterThan(0);
  });

  it('goes on after kill -9 with what it has, and without a wrong byte', async () => {
    let victim = await start();
    const kept: V2Blob[] = [];
    for (let round = 0; round < 3; round += 1) {
      await untilFresh(victim);
      const blobs = await Promise.all(Array.from({ length: 4 }, () => stored(2 * MiB)));
      const uploads = Array.from({ length: 4 }, () => newBlob(2 * MiB));
      kept.push(...blobs, ...uploads);
      const moves = [
        ...blobs.map((blob) => read(victim.port, sized(blob)).catch(() => undefined)),
        ...uploads.map((blob) => put(victim.port, blob).catch(() => undefined)),
      ];
      await Promise.race(moves); // the others are in the middle of it
      await victim.kill();
      await Promise.all(moves);
      victim = await start([], victim.cacheDir);
      for (const blob of kept) {
        const found = await get(blob, {}, victim.port);
        if (found.status === 200) expect(found.body.equals(blob.bytes)).toBe(true);
        else expect([found.status, uploads.includes(blob) || !blobs.includes(blob)]).toEqual([404, true]);
      }
    }
    await untilFresh(victim);
    expect((await statusOf(victim)).lease.cleared).toBe(0); // the same boot of the machine: only the process died
  });

  it('takes no more room on the disk than it was given, but for one blob', async () => {
    const small = await start(['--cache-disk-bytes', '10MiB', '--cache-memory-bytes', '0']);
    await untilFresh(small);
    const used = (): number =>
      readdirSync(join(small.cacheDir, 'kept'), { recursive: true, withFileTypes: true })
        .filter((one) => one.isFile())
        .map((one) => statSync(join(one.parentPath, one.name), { throwIfNoEntry: false })?.size ?? 0)
        .reduce((sum, size) => sum + size, 0);
    let most = 0;
    for (let round = 0; round < 6; round += 1) {
      const blobs = await Promise.all(Array.from({ length: 5 }, () => stored(MiB + round)));
      for (const moves of [blobs.map((blob) => read(small.port, sized(blob))), [put(small.port, newBlob(3 * MiB))]]) {
        await Promise.all(moves);
        most = Math.max(most, used());
      }
    }
    expect(most).toBeGreaterThan(5 * MiB);
    expect(most).toBeLessThanOrEqual(10 * MiB + 3 * MiB);
    expect((await statusOf(small)).disk.bytes).toBeLessThanOrEqual(10 * MiB);
    expect(await metric(small.port, 'lps_cache_evictions_total{place="disk"}')).toBeGreaterThan(0);
  });

  it('has its directory for itself, keeps what it had through a stop, and forgets by hand', async () => {
    const first = await start([], tempDir('own'));
    await untilFresh(first);
    const [blob, large] = [await stored(5000), await stored(3 * MiB)];
    for (const one of [blob, large]) {
      await read(first.port, sized(one));
      await fileOf(one, first.cacheDir);
    }
    await expect(start([], first.cacheDir)).rejects.toThrow('in use by another process');
    await first.stop();
    const second = await start([], first.cacheDir);
    await untilFresh(second);
    const before = gets();
    expect(await read(second.port, sized(blob))).toEqual(rightRead);
    expect([gets() - before, (await statusOf(second)).lease.cleared]).toEqual([0, 0]);
    const purge = (value: unknown) => {
      const body = Buffer.from(JSON.stringify(value));
      const headers = { 'content-type': 'application/json', 'content-length': body.length };
      return request(second.port, '/v3/cache/purge', { method: 'POST', headers, body });
    };
    expect((await purge({ key: blob.key })).status).toBe(200);
    expect(await read(second.port, sized(blob))).toEqual(rightRead);
    expect(gets() - before).toBe(1);
    expect((await purge({ all: true })).status).toBe(200);
    const { memory, disk } = await statusOf(second);
    expect([memory.blobs, disk.blobs]).toEqual([0, 0]);
    expect((await purge({})).status).toBe(400);
  });

  it('says where to ask for what it does not do', async () => {
    const { status, text } = await request(node.port, '/v3/takedowns');
    expect([status, codeOf({ text })]).toEqual([404, 'ROUTE_NOT_FOUND']);
    expect(text).toContain(proxy.url);
  });
});

describe('a cache node before a service that asks who calls', () => {
  let service: RunningService;
  let node: CacheNodeProcess;
  const tokens: Record<string, string> = {};
  const tokenOf = async (name: string, namespace: string, ...rights: string[]): Promise<string> => {
    const args = rights.flatMap((right) => ['--right', right]);
    const made = await lps(service, 'token', 'create', '--name', name, '--namespace', namespace, ...args, '--json');
    return String(made.summary.token);
  };
  const get = (blob: V2Blob, token?: string) =>
    request(node.port, `/v3/blobs?${new URLSearchParams({ key: blob.key })}`, {
      headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    });

  beforeAll(async () => {
    service = await startService({ args: ['--auth', 'required', '--max-staleness', '1s'] });
    for (const [name, namespace, ...rights] of [
      ['node', '*', 'read', 'write'],
      ['reader', 'default', 'read', 'write'],
      ['foreign', 'other', 'read', 'write'],
      ['writer', 'default', 'write'],
      ['operator', '*', 'admin'],
    ] as const) {
      tokens[name] = await tokenOf(name, namespace, ...rights);
    }
    const env = { LPS_UPSTREAM_TOKEN: tokens.node ?? '' };
    node = await startCacheNode({ upstream: service.url, env, args: ['--max-staleness', '1s'] });
  });
  afterAll(async () => {
    await node?.stop();
    await service?.stop();
  });

  it('lets nobody have what it keeps without a right, and nobody for longer than M after his token has ended', async () => {
    const blob = newBlob(5000);
    const headers = { ...blob.putHeaders, authorization: `Bearer ${tokens.reader}` };
    expect((await request(node.port, blob.putPath, { method: 'PUT', headers, body: blob.bytes })).status).toBe(201);
    await until('its bytes', async () => (await get(blob, tokens.reader)).body.equals(blob.bytes) || undefined);
    for (const [token, status] of [
      [undefined, 401],
      ['garbage', 401],
      [`${tokens.reader?.slice(0, -4)}AAAA`, 401],
      [tokens.foreign, 403],
      [tokens.writer, 403],
      [tokens.operator, 403],
    ] as const) {
      const answer = await get(blob, token);
      expect([answer.status, answer.body.includes(blob.bytes.subarray(0, 100))]).toEqual([status, false]);
    }
    const { lease } = await untilFresh(node, true, { authorization: `Bearer ${tokens.operator}` });
    expect(lease.cleared).toBe(1);
    expect(
      (await request(node.port, '/v3/cache', { headers: { authorization: `Bearer ${tokens.reader}` } })).status,
    ).toBe(403);

    const id = tokens.reader?.split('_')[1] ?? '';
    expect((await lps(service, 'token', 'revoke', id)).code).toBe(0);
    // the service itself takes it for 10 s more, and the node for M then
    await until('a token that is refused', async () =>
      (await get(blob, tokens.reader)).status === 401 ? true : undefined,
    );
    expect((await get(blob, tokens.reader)).status).toBe(401);
  });

  it('does not start with a token that cannot do its work', async () => {
    for (const [token, text] of [
      ['lps_000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', 'does not take upstream-token'],
      [tokens.reader ?? '', 'upstream-token'],
      [tokens.foreign ?? '', 'lacks read and write on every namespace'],
    ]) {
      const env = { LPS_UPSTREAM_TOKEN: token ?? '' };
      const refusal = await until('a refusal', async () => {
        const started = await startCacheNode({ upstream: service.url, env }).catch(({ message }: Error) => message);
        if (typeof started === 'string') return started;
        await started.stop(); // upstream did not answer within five seconds, and it started without
        return undefined;
      });
      expect(refusal).toContain(text);
    }
  });
});
