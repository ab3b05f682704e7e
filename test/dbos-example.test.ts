/** examples/dbos-files, run as a user runs it, with a real browser where there is one. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PresignedPost } from '@large-payload/dbos';
import {
  describeWith,
  freePort,
  type LoggedProcess,
  spawnLogged,
  startVersitygw,
  tempDir,
} from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startChromium } from './support/chromium.ts';
import { openWorld, submitForm, type World } from './support/dbos-world.ts';
import { says } from './support/says.ts';

const example = fileURLToPath(new URL('../examples/dbos-files/', import.meta.url));
const s3 = await startVersitygw();
const browser = s3 && (await startChromium());

describeWith(describe, 'the example of files', s3, (s3) => {
  let world: World;
  let server: LoggedProcess;
  let url: string;

  async function start(): Promise<void> {
    server = await spawnLogged(process.execPath, ['server.js'], {
      cwd: example,
      env: {
        DATABASE_URL: world.databaseUrl,
        S3_BUCKET: s3.bucket,
        S3_ENDPOINT: s3.endpoint,
        AWS_REGION: s3.region,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
        PORT: new URL(url).port,
      },
    });
    await says(server, /listening on/);
  }

  beforeAll(async () => {
    world = await openWorld(s3);
    url = `http://127.0.0.1:${await freePort()}`;
    await start();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
    await world?.close();
    await s3.stop();
  });

  const keyOf = async (name: string): Promise<string | undefined> => {
    const files = (await (await fetch(`${url}/files`)).json()) as { key: string; name: string }[];
    return files.find((file) => file.name === name)?.key;
  };
  const at = (key: string | undefined): string => `${url}/files/${encodeURIComponent(key ?? 'none')}`;

  /** The form of an upload page, as a browser reads it. */
  async function formOf(name: string): Promise<PresignedPost> {
    const html = await (await fetch(`${url}/upload?name=${encodeURIComponent(name)}`)).text();
    const text = (value = ''): string => value.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)));
    const action = /action="([^"]*)"/.exec(html)?.[1];
    const inputs = html.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)">/g);
    return {
      url: text(action),
      fields: Object.fromEntries([...inputs].map(([, name, value]) => [text(name), text(value)])),
    };
  }

  it('stores, lists, returns and deletes what comes through the server', async () => {
    const bytes = randomBytes(9_000_000); // two parts
    const stored = await fetch(`${url}/files/photo%20%C3%BC.jpg`, { method: 'PUT', body: bytes });
    expect(stored.status).toBe(201);
    const key = await keyOf('photo ü.jpg');
    expect(await stored.json()).toEqual({ key, name: 'photo ü.jpg' });
    const read = await fetch(at(key));
    expect(Buffer.from(await read.arrayBuffer()).equals(bytes)).toBe(true);
    expect((await fetch(at(key), { method: 'DELETE' })).status).toBe(204);
    expect(await keyOf('photo ü.jpg')).toBeUndefined();
    expect((await fetch(at(key))).status).toBe(404);
  });

  it('takes what a form has uploaded to the bucket, on its way back to the server', async () => {
    const answer = await submitForm(await formOf('from a form'), 'content of the form');
    expect(answer.status).toBe(303);
    const back = answer.headers.get('location') ?? '';
    expect(await (await fetch(back)).text()).toContain('from a form is there');
    expect(await (await fetch(at(await keyOf('from a form')))).text()).toBe('content of the form');
  });

  it('forgets an upload that the client gives up', async () => {
    const { fields } = await formOf('given up');
    const id = new URL(fields.success_action_redirect ?? '').searchParams.get('id');
    const answer = await fetch(`${url}/cancel?id=${id}`);
    expect(answer.status).toBe(409);
    expect(await answer.text()).toContain('S3 operation timed out or canceled');
    expect(await world.row(fields.key ?? '')).toBeUndefined();
  });

  it('goes on with an upload after it was killed', async () => {
    const post = await formOf('after a kill');
    await server.kill();
    const answer = await submitForm(post, 'content');
    await start();
    expect(await (await fetch(answer.headers.get('location') ?? '')).text()).toContain('after a kill is there');
  });

  describeWith(describe, 'in Chromium', browser, (browser) => {
    it('uploads a file from the page to the bucket', async () => {
      const content = randomBytes(3_000_000);
      const path = join(tempDir('form'), 'file.bin');
      writeFileSync(path, content);
      await browser.open(`${url}/upload?name=from%20a%20browser`);
      await browser.choose('input[type=file]', path);
      await browser.click('#upload button');
      expect(await browser.text('#message')).toBe('from a browser is there');
      const read = await fetch(at(await keyOf('from a browser')));
      expect(Buffer.from(await read.arrayBuffer()).equals(content)).toBe(true);
      await browser.click('a');
      expect(await browser.text('ul')).toContain('from a browser');
    });
  });
});
