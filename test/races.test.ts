/** Many clients, one new blob, at the same moment; one of them stalls half-way and holds up nobody. */

import { readdirSync } from 'node:fs';
import http from 'node:http';
import { afterAll, describe, expect, it } from 'vitest';
import { metric, newBlob, put, read, rightRead, sized, stalledPut, type V2Blob } from './support/blobs.ts';
import { startPlaces } from './support/places.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const clients = 64;
const size = 300_000;

const places = await startPlaces();

describe.each(places)('64 clients with one new blob, on $name', ({ options, objects, temporaryDir }) => {
  let service: RunningService;
  afterAll(() => service?.stop());

  async function uploadsInFlight(count: number): Promise<void> {
    const inFlight = async (): Promise<true | undefined> =>
      (await metric(service.port, 'lps_uploads_in_flight')) === count ? true : undefined;
    await until(`${count} uploads in flight`, inFlight);
  }

  async function expectOne(blob: V2Blob): Promise<void> {
    expect(await objects(blob)).toBe(1);
    const hex = blob.digest.slice('sha256:'.length);
    const rows = await queryCatalog(
      service.dataDir,
      `select state, size from lps.blob where digest = decode($1, 'hex')`,
      [hex],
    );
    expect(rows).toEqual([{ state: 'live', size: String(size) }]);
    expect(await read(service.port, sized(blob))).toEqual(rightRead);
  }

  async function expectNothingLeft(): Promise<void> {
    await uploadsInFlight(0);
    expect(await queryCatalog(service.dataDir, 'select * from lps.lease')).toEqual([]);
    if (temporaryDir !== undefined) expect(readdirSync(temporaryDir)).toEqual([]);
  }

  /** All but the stalled one; resolves when each of them is answered, while that one is not. */
  async function race(blob: V2Blob) {
    service ??= await startService({ ...options, args: ['--max-uploads', '128', '--idle-timeout', '2m'] });
    const stalled = await stalledPut(service.port, blob, size / 2);
    await uploadsInFlight(1);
    const agent = new http.Agent({ maxSockets: clients });
    const answers = await Promise.all(Array.from({ length: clients - 1 }, () => put(service.port, blob, { agent })));
    agent.destroy();
    expect(
      answers.filter(({ status }) => status !== 200 && status !== 201).map(({ status, text }) => `${status} ${text}`),
    ).toEqual([]);
    expect(new Set(answers.map(({ text }) => text))).toEqual(new Set([JSON.stringify({ Key: blob.key })]));
    expect(answers.filter(({ status }) => status === 201).length).toBeLessThanOrEqual(1);
    expect({ received: stalled.received, closed: stalled.closed }).toEqual({ received: '', closed: false });
    await uploadsInFlight(1);
    await expectOne(blob);
    return stalled;
  }

  it('stores it once and waits for nobody; the stalled one finishes', async () => {
    const blob = newBlob(size);
    const stalled = await race(blob);
    await stalled.write(blob.bytes.subarray(size / 2));
    expect(await stalled.until(/"Key"/)).toMatch(/^HTTP\/1\.1 20[01] /);
    stalled.destroy();
    await expectOne(blob);
    await expectNothingLeft();
  });

  it('stores it once and waits for nobody; the stalled one goes away', async () => {
    const blob = newBlob(size);
    const stalled = await race(blob);
    stalled.destroy();
    await expectNothingLeft();
    await expectOne(blob);
  });
});
