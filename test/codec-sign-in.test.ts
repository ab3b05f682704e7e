/**
 * People who sign in to Temporal's Web UI: the page hands their token to the codec server, which is asked over HTTPS with
 * a preflight and decides what each of them sees.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { externalStorage } from '@large-payload/temporal';
import {
  describeWith,
  freePort,
  type LoggedProcess,
  spawnLogged,
  startTemporal,
  startTemporalUi,
} from '@large-payload/test-components';
import { DefaultLogger, Runtime } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { orderOf, type RanWorkflow, runReviewed } from './support/codec-kinds.ts';
import { startIssuer } from './support/issuer.ts';
import { startPage } from './support/page.ts';
import { says } from './support/says.ts';
import { newDataDir, startService } from './support/service.ts';
import { codecStatus, openWorkflow, panelSays, pressDownload, useCodecServer } from './support/web-ui.ts';

const artefacts = fileURLToPath(new URL('./artefacts/', import.meta.url));
const audience = 'lps';

Runtime.install({
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
  logger: new DefaultLogger('ERROR', () => {}),
});

const servicePort = await freePort();
const codecEndpoint = `https://127.0.0.1:${servicePort}`;
const issuer = await startIssuer(audience);
const temporal = await startTemporal();
const page = temporal && (await startPage({ anyCertificate: true }));
const ui =
  temporal && page && (await startTemporalUi({ temporal, codecEndpoint, passAccessToken: true, issuer: issuer.url }));
const parts = temporal && page && ui ? { temporal, page, ui } : undefined;
if (parts === undefined) await temporal?.stop();

const lps = fileURLToPath(new URL('../packages/server/bin/lps.js', import.meta.url));

const policy = `
rules:
  - { when: { sub: ada }, namespaces: [default], rights: [decode] }
  - { when: { sub: bob }, namespaces: [elsewhere], rights: [decode] }
`;

describeWith(describe, 'who has signed in to the Web UI', parts, ({ temporal, page, ui }) => {
  const { namespace } = temporal;
  let dataDir: string;
  let ran: RanWorkflow;
  let service: LoggedProcess;

  beforeAll(async () => {
    dataDir = await newDataDir();
    const plain = await startService({ dataDir });
    const converter = { externalStorage: externalStorage({ url: plain.url, namespace }) };
    ran = await runReviewed(temporal, converter, orderOf('driver'));
    await plain.stop();
    service = await startHttps();
  });
  afterAll(async () => {
    await service?.stop();
    await page.close();
    await ui.stop();
    await issuer.stop();
    await temporal.stop();
  });

  async function startHttps(): Promise<LoggedProcess> {
    const [cert, key, policyPath] = [join(dataDir, 'tls.crt'), join(dataDir, 'tls.key'), join(dataDir, 'policy.yaml')];
    const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
    execFileSync('openssl', ['req', '-x509', ...curve, ...names, '-keyout', key, '-out', cert], { stdio: 'pipe' });
    writeFileSync(policyPath, policy);
    const listening = ['--port', `${servicePort}`, '--tls-cert', cert, '--tls-key', key, '--cors-origin', ui.url];
    const tokens = ['--auth-issuer', issuer.url, '--auth-jwks', issuer.jwksUrl, '--auth-audience', audience];
    const auth = ['--auth', 'required', ...tokens, '--auth-policy', policyPath];
    const server = await spawnLogged(process.execPath, [lps, 'serve', '--data-dir', dataDir, ...listening, ...auth]);
    await says(server, `listening on ${codecEndpoint}`);
    return server;
  }

  async function signIn(user: string): Promise<void> {
    issuer.user = user;
    await page.open(`${ui.url}/auth/sso?returnUrl=/namespaces/${namespace}/workflows`);
    await page.shows(`the page of ${user}`, `JSON.parse(localStorage.getItem('AuthUser') ?? '{}').name === '${user}'`);
  }

  it('sees payloads with the right to decode', async () => {
    await signIn('ada');
    await openWorkflow(page, ui.url, { namespace, ...ran });
    await codecStatus(page, 'success');
    await pressDownload(page, 'Result');
    expect(JSON.parse(await page.saved())).toEqual(ran.result);
    await page.screenshot(join(artefacts, 'web-ui-signed-in.png'));
  });

  it('is told that the codec server refuses without it', async () => {
    await signIn('bob');
    await openWorkflow(page, ui.url, { namespace, ...ran });
    expect(await codecStatus(page, 'error')).toBe('Codec Server could not connect');
    await pressDownload(page, 'Result');
    await panelSays(page, 'Result', 'Unable to download payload file.');
  });

  it('gets nothing over plain HTTP: the page does not ask', async () => {
    await signIn('ada');
    await useCodecServer(page, ui.url, codecEndpoint.replace('https:', 'http:'));
    await page.evaluate(`localStorage.setItem('passAccessToken', 'true')`);
    await openWorkflow(page, ui.url, { namespace, ...ran });
    // what this version of the page shows instead
    await panelSays(page, 'Input', 'null');
    const asked = `performance.getEntriesByType('resource').filter(({ name }) => name.includes(':${servicePort}/'))`;
    expect(await page.evaluate(`${asked}.length`)).toBe(0);
  });
});
