/**
 * examples/encryption, run as a user runs it: a real service on a real bucket, a real Temporal server, worker and starter
 * processes. No plain text is anywhere but where people look.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  describeWith,
  type LoggedProcess,
  spawnLogged,
  startTemporal,
  startTemporalUi,
  startVersitygw,
  tempDir,
} from '@large-payload/test-components';
import { Connection } from '@temporalio/client';
import type { Payload } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askCodec } from './support/codec-client.ts';
import { kindOf, payloadsIn } from './support/history.ts';
import { startPage } from './support/page.ts';
import { says } from './support/says.ts';
import { type RunningService, startService } from './support/service.ts';
import { openWorkflow, panelSays, pressDownload, useCodecServer } from './support/web-ui.ts';

const example = fileURLToPath(new URL('../examples/encryption/', import.meta.url));
const artefacts = fileURLToPath(new URL('./artefacts/', import.meta.url));
const secrets = ['Ada Lovelace', 'blood pressure 117', 'BLOOD PRESSURE 117', 'healthy'];
const result = 'Ada Lovelace is healthy: 375000 characters of findings';

const temporal = await startTemporal();
const gateway = temporal && (await startVersitygw());
const page = gateway && (await startPage());
const servers = temporal && gateway ? { temporal, gateway } : undefined;
if (servers === undefined) await temporal?.stop();
const ui = temporal && page && (await startTemporalUi({ temporal }));
const browser = page && ui ? { page, ui } : undefined;

describeWith(describe, 'the example of encryption', servers, ({ temporal, gateway }) => {
  const { address, namespace } = temporal;
  const workflowId = `encryption-${randomUUID()}`;
  const keysFile = join(tempDir('keys'), 'codec-keys');
  let service: RunningService;
  let worker: LoggedProcess;
  let connection: Connection;
  let payloads: Payload[];
  let runId: string;

  beforeAll(async () => {
    writeFileSync(keysFile, `key-1=${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
    service = await startService({
      store: gateway,
      args: ['--config', join(example, 'service.yaml'), ...(ui ? ['--cors-origin', ui.url] : [])],
      env: { LPS_CODEC_KEYS_FILE: keysFile },
    });
    const env = {
      LPS_URL: service.url,
      LPS_CODEC_KEYS_FILE: keysFile,
      TEMPORAL_ADDRESS: address,
      TEMPORAL_NAMESPACE: namespace,
      WORKFLOW_ID: workflowId,
    };
    worker = await spawnLogged(process.execPath, ['worker.js'], { cwd: example, env });
    await says(worker, 'worker ready');
    const starter = await spawnLogged(process.execPath, ['starter.js'], { cwd: example, env });
    await says(starter, `result: ${result}`, worker);
    connection = await Connection.connect({ address });
    const history = await connection.workflowService.getWorkflowExecutionHistory({
      namespace,
      execution: { workflowId },
    });
    payloads = [...payloadsIn(history)];
    runId = history.history?.events?.[0]?.workflowExecutionStartedEventAttributes?.firstExecutionRunId ?? '';
  });
  afterAll(async () => {
    await connection?.close();
    await worker?.stop();
    await service?.stop();
    await page?.close();
    await ui?.stop();
    await gateway.stop();
    await temporal.stop();
  });

  it('leaves no plain text in the bucket, in the data directory or in the history', () => {
    expect(payloads.map(kindOf)).toContain('codec');
    const files = [...filesIn(gateway.dir), ...filesIn(service.dataDir)];
    const places = new Map<string, Buffer>(files.map((path) => [path, readFileSync(path)]));
    places.set('the history', Buffer.concat(payloads.map(({ data }) => data ?? new Uint8Array())));
    places.set('the log', Buffer.from(service.output()));
    expect(files.filter((path) => path.startsWith(join(gateway.dir, gateway.bucket, 'blobs'))).length).toBe(2);
    const found = [...places].filter(([, bytes]) => secrets.some((secret) => bytes.includes(secret)));
    expect(found.map(([name]) => name)).toEqual([]);
  });

  it('shows the plain text where it is decoded', async () => {
    const decoded = await askCodec(service.url, `${namespace}/decode`, payloads);
    expect(decoded.status).toBe(200);
    const texts = (decoded.payloads ?? []).map(({ data }) => `${Buffer.from(data, 'base64')}`);
    expect(texts.length).toBe(payloads.length);
    for (const secret of secrets) expect(texts.some((text) => text.includes(secret))).toBe(true);
    expect(texts.filter((text) => text === JSON.stringify(result)).length).toBe(2);
  });

  describeWith(describe, 'in the Web UI', browser, ({ page, ui }) => {
    it('shows the result, and downloads the input', async () => {
      await useCodecServer(page, ui.url, service.url);
      await openWorkflow(page, ui.url, { namespace, workflowId, runId });
      await panelSays(page, 'Result', result);
      await page.screenshot(join(artefacts, 'web-ui-encryption.png'));
      await pressDownload(page, 'Input');
      expect(await page.saved()).toContain('blood pressure 117');
    });
  });
});

function filesIn(dir: string): string[] {
  const entries = readdirSync(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
}
