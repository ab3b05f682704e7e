/**
 * What people see of large payloads in Temporal's Web UI: the real one, in a real browser, on a real Temporal server,
 * with `lps serve` as its codec server.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeleteObjectCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3';
import {
  describeWith,
  freePort,
  openS3Client,
  startTemporal,
  startTemporalUi,
  startVersitygw,
} from '@large-payload/test-components';
import { DefaultLogger, Runtime } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askCodec } from './support/codec-client.ts';
import {
  converterFor,
  type Kind,
  kinds,
  kindsInHistory,
  orderOf,
  type Places,
  type RanWorkflow,
  runReviewed,
  temporalBucketArgs,
} from './support/codec-kinds.ts';
import { startPage } from './support/page.ts';
import { type RunningService, startService } from './support/service.ts';
import { codecStatus, openWorkflow, panelSays, pressDownload, useCodecServer } from './support/web-ui.ts';

const artefacts = fileURLToPath(new URL('./artefacts/', import.meta.url));

Runtime.install({
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
  logger: new DefaultLogger('ERROR', () => {}),
});

const servicePort = await freePort();
const codecEndpoint = `http://127.0.0.1:${servicePort}`;
const temporal = await startTemporal();
const gateway = temporal && (await startVersitygw());
const page = gateway && (await startPage());
const ui = temporal && page && (await startTemporalUi({ temporal, codecEndpoint }));
const parts = temporal && gateway && page && ui ? { temporal, gateway, page, ui } : undefined;

describeWith(describe, 'Temporal’s Web UI', parts, ({ temporal, gateway, page, ui }) => {
  const { namespace } = temporal;
  let service: RunningService;
  let s3: S3Client;
  let places: Places;
  const ran = new Map<Kind, RanWorkflow>();

  beforeAll(async () => {
    const { args, env } = temporalBucketArgs(gateway);
    service = await startService({ args: ['--port', `${servicePort}`, '--cors-origin', ui.url, ...args], env });
    s3 = await openS3Client(gateway);
    places = { temporal, url: service.url, gateway, s3 };
    for (const kind of kinds) ran.set(kind, await run(kind));
  });
  afterAll(async () => {
    s3?.destroy();
    await service?.stop();
    await page.close();
    await ui.stop();
    await gateway.stop();
    await temporal.stop();
  });

  const run = (kind: Kind): Promise<RanWorkflow> => runReviewed(temporal, converterFor(kind, places), orderOf(kind));

  function of(kind: Kind): RanWorkflow & { namespace: string } {
    const found = ran.get(kind);
    if (found === undefined) throw new Error(`no workflow of kind ${kind}`);
    return { namespace, ...found };
  }

  it('shows small payloads as they are', async () => {
    const { input, result, counts, ...workflow } = of('inline');
    expect(counts).toEqual({ inline: 2 });
    await openWorkflow(page, ui.url, workflow);
    await panelSays(page, 'Input', input.title);
    await panelSays(page, 'Result', result.verdict);
    await codecStatus(page, 'success');
  });

  for (const kind of ['codec', 'driver', 's3'] as const) {
    it(`shows that large payloads are stored, and downloads them (${kindsInHistory[kind]})`, async () => {
      const { input, result, counts, ...workflow } = of(kind);
      expect(counts).toEqual({ [kindsInHistory[kind]]: 2 });
      await openWorkflow(page, ui.url, workflow);
      await panelSays(page, 'Input', '293.0');
      await pressDownload(page, 'Input');
      expect(JSON.parse(await page.saved())).toEqual(input);
      await pressDownload(page, 'Result');
      expect(JSON.parse(await page.saved())).toEqual(result);
      await codecStatus(page, 'success');
      await page.screenshot(join(artefacts, `web-ui-${kind}.png`));
    });
  }

  it('says that a payload cannot be downloaded when it is no longer there', async () => {
    const { workflowId, runId, payloads } = await run('s3');
    await forget(s3, gateway.bucket, workflowId);
    await openWorkflow(page, ui.url, { namespace, workflowId, runId });
    await pressDownload(page, 'Input');
    await panelSays(page, 'Input', 'Unable to download payload file.');
    await page.screenshot(join(artefacts, 'web-ui-missing.png'));
    const { status, text } = await askCodec(service.url, 'download?preserveStorageRefs=true', payloads.slice(0, 1), {
      'x-namespace': namespace,
    });
    // not 404, from which the page would tell that this codec server has no downloads
    expect([status, text?.trim()]).toEqual([424, expect.stringMatching(/^[^\n]+$/)]);
  });

  it('says so when the codec server does not answer its origin', async () => {
    const elsewhere = ui.url.replace('127.0.0.1', 'localhost');
    await openWorkflow(page, elsewhere, of('driver'));
    expect(await codecStatus(page, 'error')).toBe('Codec Server could not connect');
    // the page goes on with what it has
    await panelSays(page, 'Input', '"driverName": "large-payload"');
  });

  it('says so when the codec server wants a token that it does not get', async () => {
    const closed = await startService({ args: ['--auth', 'required', '--cors-origin', ui.url] });
    try {
      await useCodecServer(page, ui.url, closed.url);
      await openWorkflow(page, ui.url, of('driver'));
      expect(await codecStatus(page, 'error')).toBe('Codec Server could not connect');
      await page.screenshot(join(artefacts, 'web-ui-unauthenticated.png'));
      await pressDownload(page, 'Input');
      await panelSays(page, 'Input', 'Unable to download payload file.');
    } finally {
      await page.evaluate('localStorage.clear()');
      await closed.stop();
    }
  });
});

async function forget(s3: S3Client, bucket: string, workflowId: string): Promise<void> {
  const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket: bucket }));
  const keys = Contents.flatMap(({ Key }) => (Key?.includes(workflowId) ? [Key] : []));
  expect(keys.length).toBe(2);
  for (const Key of keys) await s3.send(new DeleteObjectCommand({ Bucket: bucket, Key }));
}
