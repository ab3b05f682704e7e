/** `/v3/workflows` and `lps workflows`, on workflows that run. */
import { DBOS } from '@dbos-inc/dbos-sdk';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openWorkplace, type Workplace } from '../cli/lps-fixture.js';
import { type Durable, startDurable } from '../durable/durable.js';
import { keptLog, openSite, type Site } from '../durable/durable-fixture.js';
import { type Answer, type RunningApp, request, startApp } from '../http/testing.js';

const secret = 'presigned-secret';
let isOpen = false;

const workflows = {
  async gated(_input: { url: string }): Promise<string> {
    await DBOS.runStep(async () => secret, { name: 'first' });
    while (!isOpen) await DBOS.sleep(20);
    return secret;
  },
  async broken(): Promise<void> {
    await DBOS.runStep(
      async () => {
        throw new Error('it cannot work\nfor reasons');
      },
      { name: 'breaks' },
    );
  },
};

let postgres: EmbeddedPostgres;
let site: Site;
let durable: Durable<typeof workflows>;
let app: RunningApp;
let place: Workplace;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
  postgres.exited.catch(() => undefined);
  [site, place] = await Promise.all([openSite(postgres.url), openWorkplace()]);
  const common = { log: keptLog(), replicaTimeoutMs: 15_000, retentionMs: 3_600_000, isAlone: true };
  durable = startDurable({ ...common, databaseUrl: site.url, schema: site.schema, workflows });
  app = await startApp({ workflows: durable.workflows });
  await vi.waitUntil(() => durable.state().running, { interval: 5, timeout: 20_000 });
});
afterAll(async () => {
  isOpen = true;
  await app?.close();
  await durable?.close(1000);
  await site?.close();
  await place?.remove();
  await postgres?.stop();
});

const json = ({ text }: Answer): Record<string, unknown> => JSON.parse(text);
const get = (path: string): Promise<Answer> => request(app.port, `/v3/workflows${path}`);
const post = (path: string): Promise<Answer> => request(app.port, `/v3/workflows${path}`, { method: 'POST' });
const ids = (answer: Answer): string[] => (json(answer).workflows as { id: string }[]).map(({ id }) => id);
const untilIs = (id: string, state: string): Promise<void> =>
  expect.poll(async () => json(await get(`/${id}`)).state, { interval: 10, timeout: 20_000 }).toBe(state);

function lps(...args: string[]) {
  return place.lps(['workflows', ...args, '--database-url', site.url, '--database-schema', site.schema]);
}

describe('over HTTP', () => {
  it('workflows are listed, the newest first, a page at a time, by state', async () => {
    for (const id of ['w1', 'w2', 'w3']) await durable.start('gated', id, { url: secret });
    await durable.start('broken', 'w4');
    await untilIs('w4', 'failed');
    const all = await get('');
    expect(all.headers).toMatchObject({ 'cache-control': 'private, no-store' });
    expect(ids(all)).toEqual(['w4', 'w3', 'w2', 'w1']);
    expect(json(all).next).toBeNull();
    const page = await get('?limit=2');
    expect([ids(page), json(page).next]).toEqual([['w4', 'w3'], 2]);
    expect(ids(await get('?limit=2&offset=2'))).toEqual(['w2', 'w1']);
    expect(ids(await get('?state=failed'))).toEqual(['w4']);
    expect(ids(await get('?state=failed,running'))).toHaveLength(4);
    expect(ids(await get('?state=cancelled'))).toEqual([]);
  });

  it('one is shown with its steps, and without what went in and came out', async () => {
    await expect
      .poll(async () => (json(await get('/w1')).steps as unknown[]).length, { timeout: 20_000 })
      .toBeGreaterThan(1);
    const shown = await get('/w1');
    expect(json(shown)).toMatchObject({ id: 'w1', name: 'gated', state: 'running', version: '1', isStranded: false });
    expect((json(shown).steps as { name: string }[])[0]?.name).toBe('first');
    expect(shown.text).not.toContain(secret);
    const failed = json(await get('/w4'));
    expect(failed).toMatchObject({
      state: 'failed',
      error: 'it cannot work',
      steps: [{ name: 'breaks', error: 'it cannot work' }],
    });
  });

  it('one is cancelled, which may be said twice, and then resumed', async () => {
    expect(json(await post('/w2/cancel'))).toMatchObject({ id: 'w2', state: 'cancelled' });
    expect((await post('/w2/cancel')).status).toBe(200);
    expect(json(await post('/w2/resume'))).toMatchObject({ id: 'w2' });
    await untilIs('w2', 'running');
    isOpen = true;
    for (const id of ['w1', 'w2', 'w3']) await untilIs(id, 'done');
    expect((await get('/w2')).text).not.toContain(secret);
  });

  it.each([
    ['an unknown one', 'GET', '/nobody', 404, 'WORKFLOW_NOT_FOUND'],
    ['cancelling an unknown one', 'POST', '/nobody/cancel', 404, 'WORKFLOW_NOT_FOUND'],
    ['cancelling one that has ended', 'POST', '/w4/cancel', 400, 'INVALID_ARGUMENT'],
    ['resuming one that has ended', 'POST', '/w4/resume', 400, 'INVALID_ARGUMENT'],
    ['an unknown state', 'GET', '?state=asleep', 400, 'INVALID_ARGUMENT'],
    ['no page', 'GET', '?limit=0', 400, 'INVALID_ARGUMENT'],
    ['too large a page', 'GET', '?limit=1001', 400, 'INVALID_ARGUMENT'],
    ['a negative offset', 'GET', '?offset=-1', 400, 'INVALID_ARGUMENT'],
    ['another method', 'DELETE', '/w4', 405, 'METHOD_NOT_ALLOWED'],
  ])('%s is refused', async (_what, method, path, status, code) => {
    const answer = await request(app.port, `/v3/workflows${path}`, { method });
    expect({ status: answer.status, code: json(answer).code }).toEqual({ status, code });
  });

  it('work of a version that no replica has is marked', async () => {
    isOpen = false;
    await durable.start('gated', 'old', { url: '' });
    const version = (text: string): Promise<unknown> =>
      site.sql.query(
        `UPDATE ${site.schema}_dbos.workflow_status SET application_version = $1 WHERE workflow_uuid = 'old'`,
        [text],
      );
    await version('0');
    expect(json(await get('/old'))).toMatchObject({ version: '0', isStranded: true });
    expect((await lps('list')).out).toMatch(/^running +\S+ +0 +gated +old +stranded$/m);
    await site.sql.query(`INSERT INTO ${site.schema}.replica (executor_id, application_version, service_version, host, pid)
      VALUES ('other', '0', '0', 'h', 1)`);
    // it is declared gone at the leader's next look, because this one is alone
    await site.sql.query(`UPDATE ${site.schema}.replica SET gone_at = NULL WHERE executor_id = 'other'`);
    isOpen = true;
    await version('1');
    await untilIs('old', 'done');
  });
});

describe('on the command line', () => {
  it('workflows are listed, in words and in JSON', async () => {
    const { code, out, err } = await lps('list', '--state', 'failed');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toMatch(/^failed {5}\d{4}-\S+Z {2}1 {4}broken {2}w4 {2}it cannot work\n$/);
    const lines = (await lps('list', '--json', '--limit', '2')).out.trim().split('\n');
    expect(lines.map((line) => JSON.parse(line).id)).toEqual(['old', 'w4']);
  });

  it('one is shown, cancelled and resumed', async () => {
    isOpen = false;
    await durable.start('gated', 'cli', { url: secret });
    const shown = await lps('show', 'cli');
    expect(shown.out).toMatch(/^id {8}cli\nname {6}gated\nstate {5}running\n/);
    expect(shown.out).toMatch(/\nstep {6}\S+ {2}first\n/);
    expect((await lps('cancel', 'cli')).out).toMatch(/\nstate {5}cancelled\n/);
    isOpen = true;
    expect(JSON.parse((await lps('resume', 'cli', '--json')).out)).toMatchObject({ id: 'cli' });
    await untilIs('cli', 'done');
    const again = await lps('resume', 'cli');
    expect(again).toMatchObject({
      code: 2,
      out: '',
      err: expect.stringMatching(/the workflow is done; only one that/),
    });
  });

  it('what is not there is said in one line', async () => {
    expect(await lps('show', 'nobody')).toMatchObject({
      code: 1,
      err: 'lps: there is no such workflow (WORKFLOW_NOT_FOUND)\n',
    });
    expect(await lps('list', '--state', 'asleep')).toMatchObject({
      code: 2,
      err: expect.stringMatching(/It must be one or several of running,/),
    });
    expect(await lps('list', '--limit', '0')).toMatchObject({ code: 2 });
  });

  it('a catalog on which no workflow ever ran has none', async () => {
    const other = await openSite(postgres.url);
    const on = ['--database-url', other.url, '--database-schema', other.schema];
    expect(await place.lps(['workflows', 'list', ...on])).toMatchObject({ code: 0, out: '', err: '' });
    expect(await place.lps(['workflows', 'show', 'x', ...on])).toMatchObject({ code: 1 });
    await other.close();
  });
});
