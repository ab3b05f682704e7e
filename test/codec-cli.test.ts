/** What people see of large payloads with Temporal's command line: the real one, with `lps serve` as its codec server. */
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { S3Client } from '@aws-sdk/client-s3';
import {
  type CliResult,
  describeWith,
  openS3Client,
  startTemporal,
  startVersitygw,
  tempDir,
  temporalCli,
} from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { reviewed } from './fixtures/codec-workflows.ts';
import { askCodec, type PayloadJson } from './support/codec-client.ts';
import {
  converterFor,
  kinds,
  kindsInHistory,
  largeBytes,
  orderOf,
  type Places,
  type RanWorkflow,
  reviewedBundle,
  runReviewed,
  temporalBucketArgs,
} from './support/codec-kinds.ts';
import { countKinds } from './support/history.ts';
import { lps } from './support/lps.ts';
import { type RunningService, startService } from './support/service.ts';

Runtime.install({
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
  logger: new DefaultLogger('ERROR', () => {}),
});

const temporal = await startTemporal();
const gateway = temporal && (await startVersitygw());
const cli = temporal && temporalCli(temporal);
const parts = temporal && gateway && cli ? { temporal, gateway, cli } : undefined;
if (parts === undefined) await temporal?.stop();

describeWith(describe, 'Temporal’s command line', parts, ({ temporal, gateway, cli }) => {
  const { address, namespace } = temporal;
  let service: RunningService;
  let s3: S3Client;
  let places: Places;
  let connection: Connection;
  let nativeConnection: NativeConnection;

  beforeAll(async () => {
    service = await startService(temporalBucketArgs(gateway));
    s3 = await openS3Client(gateway);
    places = { temporal, url: service.url, gateway, s3 };
    connection = await Connection.connect({ address });
    nativeConnection = await NativeConnection.connect({ address });
  });
  afterAll(async () => {
    await connection?.close();
    await nativeConnection?.close();
    s3?.destroy();
    await service?.stop();
    await gateway.stop();
    await temporal.stop();
  });

  const show = (workflowId: string, ...args: readonly string[]): Promise<CliResult> =>
    cli('workflow', 'show', '--workflow-id', workflowId, ...args);

  for (const kind of kinds) {
    it(`shows what a workflow was given and returned (${kindsInHistory[kind]})`, async () => {
      const { workflowId, input, result, counts } = await runReviewed(
        temporal,
        converterFor(kind, places),
        orderOf(kind),
      );
      expect(counts).toEqual({ [kindsInHistory[kind]]: 2 });
      for (const endpoint of [service.url, `${service.url}/{namespace}`]) {
        const { code, stdout, stderr } = await show(workflowId, '--codec-endpoint', endpoint, '--output', 'json');
        expect([code, stderr]).toEqual([0, '']);
        expect(payloadsOf(stdout)).toEqual([input, result]);
      }
      if (kind !== 'inline') expect((await show(workflowId)).stdout).not.toContain('reviewed: ');
    });
  }

  it('starts a workflow whose argument is stored by the codec server', async () => {
    const path = join(tempDir('input'), 'order.json');
    const order = { title: 'from the command line', text: 'y'.repeat(largeBytes) };
    writeFileSync(path, JSON.stringify(order));
    const [workflowId, taskQueue] = [randomUUID(), randomUUID()];
    const names = ['--type', 'reviewed', '--workflow-id', workflowId, '--task-queue', taskQueue];
    // this version of the command line cannot read the size that a reference states
    const writesClaims = await startService({ args: ['--codec-claims', 'go'] });
    try {
      const endpoint = ['--codec-endpoint', `${writesClaims.url}/{namespace}`];
      const started = await cli('workflow', 'start', ...names, ...endpoint, '--input-file', path);
      expect([started.code, started.stderr]).toEqual([0, '']);

      const dataConverter = converterFor('codec', { ...places, url: writesClaims.url });
      const client = new Client({ connection, namespace, dataConverter });
      const handle = client.workflow.getHandle<typeof reviewed>(workflowId);
      const workflowBundle = await reviewedBundle();
      const worker = await Worker.create({ connection: nativeConnection, taskQueue, workflowBundle, dataConverter });
      const result = await worker.runUntil(handle.result());
      expect(result).toEqual({ ...order, verdict: 'reviewed: from the command line' });
      expect(countKinds(await handle.fetchHistory(), 0)).toEqual({ codec: 2 });
    } finally {
      await writesClaims.stop();
    }
  });

  it('fails in the end, without a word of why, when the codec server refuses', async () => {
    const { workflowId, payloads } = await runReviewed(temporal, converterFor('s3', places), orderOf('s3'));
    const blind = await startService();
    try {
      expect(await showRefused(workflowId, blind.url)).toEqual(refusal);
      const { status, text } = await askCodec(blind.url, 'decode', payloads);
      expect([status, text?.trim()]).toEqual([
        expect.any(Number),
        expect.stringMatching(/^[^\n]*aws\.s3driver[^\n]*$/),
      ]);
    } finally {
      await blind.stop();
    }
  });

  /** It asks again and again until its time is over: ten seconds, unless told. */
  async function showRefused(workflowId: string, endpoint: string, ...more: readonly string[]): Promise<unknown> {
    const args = ['--codec-endpoint', endpoint, '--command-timeout', '2s', ...more];
    const { code, stdout, stderr } = await show(workflowId, ...args);
    expect(stdout).not.toMatch(/order of|driverName/);
    return [code, stderr];
  }

  describe('with authentication', () => {
    let closed: RunningService;
    let ran: RanWorkflow;

    beforeAll(async () => {
      ran = await runReviewed(temporal, converterFor('driver', places), orderOf('driver'));
      const { dataDir } = service;
      await service.stop();
      closed = await startService({ dataDir, args: ['--auth', 'required'] });
    });
    afterAll(() => closed?.stop());

    async function newToken(forNamespace: string, right: string): Promise<string> {
      const rights = ['--name', 'test', '--namespace', forNamespace, '--right', right];
      const { code, out, err } = await lps({ dataDir: closed.dataDir }, 'token', 'create', ...rights);
      expect(code, err).toBe(0);
      return out.trim();
    }

    it('shows everything to a token with the right to decode', async () => {
      const auth = ['--codec-auth', `Bearer ${await newToken(namespace, 'decode')}`];
      for (const endpoint of [closed.url, `${closed.url}/{namespace}`]) {
        const args = ['--codec-endpoint', endpoint, '--output', 'json', ...auth];
        const { code, stdout, stderr } = await show(ran.workflowId, ...args);
        expect([code, stderr]).toEqual([0, '']);
        expect(payloadsOf(stdout)).toEqual([ran.input, ran.result]);
      }
    });

    it.each([
      ['no token', 401, async () => undefined],
      ['a wrong token', 401, async () => 'lps_nobody_knows_this'],
      ['a token of another namespace', 403, () => newToken('elsewhere', 'decode')],
      ['a token without the right to decode', 403, () => newToken(namespace, 'read')],
    ])('shows nothing with %s: the codec server answers %i', async (_title, expected, tokenOf) => {
      const token = await tokenOf();
      const auth = token === undefined ? [] : ['--codec-auth', `Bearer ${token}`];
      expect(await showRefused(ran.workflowId, `${closed.url}/{namespace}`, ...auth)).toEqual(refusal);
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const { status, text } = await askCodec(closed.url, `${namespace}/decode`, ran.payloads, headers);
      expect([status, text?.trim()]).toEqual([expected, expect.stringMatching(/^[^\n]+$/)]);
    });
  });
});

const refusal = [1, expect.stringMatching(/^[^\n]*context deadline exceeded[^\n]*\n$/)];

interface Attributes {
  readonly input?: { readonly payloads: readonly PayloadJson[] };
  readonly result?: { readonly payloads: readonly PayloadJson[] };
}

/** What `--output json` says of the workflow's input and its result. */
function payloadsOf(stdout: string): unknown[] {
  const { events } = JSON.parse(stdout) as { readonly events: readonly Record<string, Attributes>[] };
  const input = events[0]?.workflowExecutionStartedEventAttributes?.input;
  const result = events.at(-1)?.workflowExecutionCompletedEventAttributes?.result;
  return [input, result].map((one) => JSON.parse(`${Buffer.from(one?.payloads[0]?.data ?? '', 'base64')}`));
}
