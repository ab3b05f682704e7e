import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type NodeState, openNodeState } from './node-state.js';

const upstream = 'https://payloads.example';

describe('what a cache node knows of its disk', () => {
  let dir: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'lps-node-'));
  });
  afterEach(() => rm(dir, { recursive: true }));
  const open = (boot: string | undefined = 'b1', url = upstream): Promise<NodeState> =>
    openNodeState({ dir, upstream: url, bootId: async () => boot });

  it('is its id and its cursor, after a clean stop', async () => {
    const first = await open();
    expect(first.cursor).toBeUndefined();
    await first.save(4n);
    await first.close(7n);
    const second = await open('b2');
    expect([second.id, second.cursor]).toEqual([first.id, 7n]);
  });

  it('is the cursor after a crash of the process, and not after one of the machine', async () => {
    await (await open()).save(4n);
    expect((await open()).cursor).toBe(4n);
    expect((await open('b2')).cursor).toBeUndefined();
    expect((await open('b2')).cursor).toBeUndefined();
  });

  it('is not sure after a crash where nobody can say which boot it is', async () => {
    const nameless = () => openNodeState({ dir, upstream, bootId: async () => undefined });
    await (await nameless()).save(4n);
    expect((await nameless()).cursor).toBeUndefined();
    await (await nameless()).close(5n);
    expect((await nameless()).cursor).toBe(5n);
    expect((await nameless()).cursor).toBeUndefined(); // the last one was not stopped
  });

  it('is nothing with another upstream, without a cursor, and when it cannot be read', async () => {
    const first = await open();
    await first.close(4n);
    const other = await open('b1', 'https://other.example');
    expect([other.cursor, other.id === first.id]).toEqual([undefined, false]);
    await other.close(undefined);
    expect((await open('b1', 'https://other.example')).cursor).toBeUndefined();
    await writeFile(join(dir, 'node.json'), '{"id":');
    expect((await open()).cursor).toBeUndefined();
    expect(JSON.parse(await readFile(join(dir, 'node.json'), 'utf8'))).toMatchObject({ upstream, isClean: false });
  });

  it('is another id when upstream keeps the first for somebody else, and the same cursor', async () => {
    const first = await open();
    await first.save(4n);
    const id = '00000000-0000-4000-8000-000000000001';
    await first.rename(id);
    expect(first.id).toBe(id);
    const second = await open();
    expect([second.id, second.cursor]).toEqual([id, 4n]);
    const nothing = await openNodeState({ upstream });
    await nothing.rename(id);
    expect(nothing.id).toBe(id);
  });

  it('goes back with upstream, as after a backup', async () => {
    const state = await open();
    await state.save(100n);
    await state.save(50n);
    expect((await open()).cursor).toBe(50n);
  });
});
