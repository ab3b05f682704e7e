/** The commands of pin.ts, as they are called, on the embedded database of a directory. */
import { readdir, rm } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openWorkplace, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

describe('refused are', () => {
  it.each([
    [['pin'], /Usage: lps pin/],
    [['pin', 'add', '--reason', 'x'], /missing required argument 'key'/],
    [['pin', 'add', '/blobs/orders/'], /required option '--reason <text>' not specified/],
    [['pin', 'add', '/blobs/orders/', '--reason', 'x', '--expires', 'soon'], /'soon' is invalid. It must be a time/],
    [['pin', 'add', '/blobs/orders/', '--reason', 'x', '--data-dir', 'nowhere'], /there is no catalog in .*nowhere/],
    [['pin', 'list', '--store', 'memory'], /the memory store and its catalog are gone/],
    [['pin', 'remove'], /missing required argument 'id'/],
  ])('%j', async (args, message) => {
    const { code, out, err } = await place.lps(args);
    expect({ code, out, err }).toEqual({ code: 2, out: '', err: expect.stringMatching(message) });
    expect(await readdir(place.dir)).toEqual([]);
  });
});

/** A dozen processes, each with a database that it starts. */
const timeout = 300_000;

it('a pin is made, listed and removed; a lost catalog gets it back, and so does an imported one', {
  timeout,
}, async () => {
  const site = place.onStore();
  expect(await place.lps(['catalog', 'reconcile', ...site])).toMatchObject({ code: 0 });
  const made = await place.lps(['pin', 'add', '/blobs/orders/', '--reason', 'case 4711', ...site]);
  const [, id] = /^([0-9a-f]{20})\n$/.exec(made.out) ?? [];
  expect(made).toMatchObject({ code: 0, err: 'lps: pinned until it is removed\n' });
  const flags = ['--reason', 'an audit', '--owner', 'audit', '--expires', '90d', '--json'];
  const other = JSON.parse((await place.lps(['pin', 'add', '/blobs/orders/custom/a/', ...flags, ...site])).out);
  expect(other).toMatchObject({ key: '/blobs/orders/custom/a/', owner: 'audit', reason: 'an audit' });
  expect(Date.parse(other.expiresAt) - Date.parse(other.createdAt)).toBeCloseTo(90 * 86_400_000, -5);
  const list = async (...args: string[]) =>
    (await place.lps(['pin', 'list', ...args, ...site])).out.trimEnd().split('\n');
  const line = expect.stringMatching(
    `^${id}  \\d{4}-\\d\\d-\\d\\d  -           ${userInfo().username}  /blobs/orders/  case 4711$`,
  );
  expect(await list()).toEqual([expect.stringContaining(other.id), line]);
  expect(await list('/blobs/orders/common/')).toEqual([line]);
  expect((await list('--json')).map((text) => JSON.parse(text).id)).toEqual([other.id, id]);

  const wrong = await place.lps(['pin', 'add', 'orders', '--reason', 'x', ...site]);
  expect(wrong).toMatchObject({ code: 2, err: expect.stringContaining('a key looks like') });
  expect(await place.lps(['pin', 'remove', other.id, ...site])).toMatchObject({ code: 0 });
  expect(await place.lps(['pin', 'remove', other.id, ...site])).toMatchObject({
    code: 2,
    err: expect.stringContaining('there is no such pin'),
  });

  await rm(join(place.dir, 'data', 'postgres'), { recursive: true });
  const again = await place.lps(['catalog', 'reconcile', '--take-over', await lostId(), ...site]);
  expect(again).toMatchObject({ code: 0 });
  expect(again.out).toContain('1 pin');
  expect(await list()).toEqual([line]);

  const file = join(place.dir, 'catalog.jsonl');
  expect(await place.lps(['catalog', 'export', '--output', file, ...site])).toMatchObject({ code: 0 });
  await rm(join(place.dir, 'data', 'postgres'), { recursive: true });
  const imported = await place.lps(['catalog', 'import', file, ...site]);
  expect(imported).toMatchObject({ code: 0, err: expect.stringContaining('1 pin taken over from the store') });
  expect(await list()).toEqual([line]);
});

/** From the words with which another catalog is refused. */
async function lostId(): Promise<string> {
  const { err } = await place.lps(['catalog', 'reconcile', ...place.onStore()]);
  return /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(err)?.[0] ?? '';
}
