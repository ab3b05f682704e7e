/** What Temporal's S3 driver stored from Python and from TypeScript comes out of `/decode` as the same bytes. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { S3Client } from '@aws-sdk/client-s3';
import { digestOf } from '@large-payload/core';
import {
  describeWith,
  openS3Client,
  pythonWith,
  startTemporal,
  startVersitygw,
  tempDir,
} from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import type { Payload } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askCodec, type CodecAnswer } from './support/codec-client.ts';
import { largeBytes, temporalBucketArgs, temporalS3Storage } from './support/codec-kinds.ts';
import { kindOf } from './support/history.ts';
import { type RunningService, startService } from './support/service.ts';

const script = fileURLToPath(new URL('./fixtures/start_reviewed.py', import.meta.url));
/** In the order and the characters in which both languages write the same JSON. */
const order = { text: 'x'.repeat(largeBytes), title: 'an order in every language' };

const python = await pythonWith(['temporalio[aioboto3]==1.35.0']);
const temporal = python === undefined ? undefined : await startTemporal();
const gateway = temporal && (await startVersitygw());
const parts = python !== undefined && temporal && gateway ? { python, temporal, gateway } : undefined;
if (parts === undefined) await temporal?.stop();

describeWith(describe, 'Temporal’s S3 driver in two languages', parts, ({ python, temporal, gateway }) => {
  const { address, namespace } = temporal;
  let service: RunningService;
  let s3: S3Client;
  let connection: Connection;

  beforeAll(async () => {
    service = await startService(temporalBucketArgs(gateway));
    s3 = await openS3Client(gateway);
    connection = await Connection.connect({ address });
  });
  afterAll(async () => {
    await connection?.close();
    s3?.destroy();
    await service?.stop();
    await gateway.stop();
    await temporal.stop();
  });

  /** As it stands in the history. */
  async function argumentOf(workflowId: string): Promise<Payload> {
    const { history } = await connection.workflowService.getWorkflowExecutionHistory({
      namespace,
      execution: { workflowId },
    });
    const payload = history?.events?.[0]?.workflowExecutionStartedEventAttributes?.input?.payloads?.[0];
    if (!payload) throw new Error('started without an argument');
    return payload;
  }

  async function startFromPython(argument: object): Promise<Payload> {
    const path = join(tempDir('argument'), 'argument.json');
    writeFileSync(path, JSON.stringify(argument));
    const workflowId = randomUUID();
    const env = {
      ...process.env,
      AWS_ACCESS_KEY_ID: gateway.accessKeyId,
      AWS_SECRET_ACCESS_KEY: gateway.secretAccessKey,
      S3_ENDPOINT: gateway.endpoint,
      S3_REGION: gateway.region,
      S3_BUCKET: gateway.bucket,
      TEMPORAL_ADDRESS: address,
      TEMPORAL_NAMESPACE: namespace,
      WORKFLOW_ID: workflowId,
      TASK_QUEUE: 'nobody',
    };
    await promisify(execFile)(python, [script, path], { env, timeout: 60_000 });
    return argumentOf(workflowId);
  }

  async function startFromTypeScript(argument: object): Promise<Payload> {
    const dataConverter = { externalStorage: temporalS3Storage(gateway.bucket, s3) };
    const client = new Client({ connection, namespace, dataConverter });
    const workflowId = randomUUID();
    await client.workflow.start('reviewed', { workflowId, taskQueue: 'nobody', args: [argument] });
    return argumentOf(workflowId);
  }

  it('is decoded to the same bytes', async () => {
    const references = [await startFromPython(order), await startFromTypeScript(order)];
    expect(references.map(kindOf)).toEqual(['driver:aws.s3driver', 'driver:aws.s3driver']);
    const answer = await askCodec(service.url, `${namespace}/decode`, references);
    expect(summaryOf(answer)).toEqual([
      [{ encoding: 'json/plain' }, digestOf(Buffer.from(JSON.stringify(order)))],
      'the same',
    ]);
  });
});

/** Short, so that a difference can be read. */
function summaryOf({ payloads = [], status, text }: CodecAnswer): unknown {
  const [first, ...others] = payloads.map(({ metadata, data }) => {
    const names = Object.entries(metadata).map(([name, value]) => [name, `${Buffer.from(value, 'base64')}`]);
    return [Object.fromEntries(names), digestOf(Buffer.from(data, 'base64'))];
  });
  if (first === undefined) return { status, text };
  const same = others.every((other) => JSON.stringify(other) === JSON.stringify(first));
  return [first, same && others.length === 1 ? 'the same' : others];
}
