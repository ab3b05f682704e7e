/** Claims in fields that the SDK does not know yet, from a server that does, over real gRPC. */
import proto from '@temporalio/proto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GrpcProxy, startGrpcProxy } from '../../../../../test/support/grpc-proxy.ts';
import { digestNamed, payload } from '../extract/extract-fixture.js';
import { openExtractor } from '../extract/extractor.js';
import { runsKind } from '../holders/runs.js';
import { schedulesKind } from '../holders/schedules.js';
import type { TemporalCluster, TemporalNamespace } from '../temporal-api.js';
import { openCluster } from './cluster.js';

const { common, enums, history, workflowservice } = proto.temporal.api;
const execution = { workflowId: 'w', runId: 'r' };
const started = { eventType: enums.v1.EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED };

let proxy: GrpcProxy;
let cluster: TemporalCluster;
let namespace: TemporalNamespace;

beforeAll(async () => {
  proxy = await startGrpcProxy('127.0.0.1:9'); // every answer is given here
  cluster = openCluster({
    ...{ name: 'dev', address: proxy.address, namespaces: ['default'], isIsolated: true, requestsPerSecond: 1000 },
    ...{ claimFreeEncodings: [], acceptServerVersions: [] },
  });
  [namespace] = (await cluster.namespaces()) as [TemporalNamespace];
});
afterAll(async () => {
  await cluster?.close();
  await proxy?.close();
});

/** The field 2000 of any message: a payload that names a digest. */
function unknownField(name: string): Buffer {
  const content = common.v1.Payload.encode(payload('json/plain', JSON.stringify(digestNamed(name)))).finish();
  return field(2000, content);
}

function field(number: number, content: Uint8Array): Buffer {
  const varint = (value: number): number[] => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >> 7)]);
  return Buffer.concat([Buffer.from([...varint(8 * number + 2), ...varint(content.length)]), content]);
}

/** Bytes of a message, and behind them fields in which messages of its own type go on. */
const also = (message: Uint8Array, ...fields: Buffer[]): Buffer => Buffer.concat([message, ...fields]);
const answers: Record<string, Uint8Array> = {
  DescribeWorkflowExecution: also(
    workflowservice.v1.DescribeWorkflowExecutionResponse.encode({ workflowExecutionInfo: { execution } }).finish(),
    unknownField('described'),
    field(2, unknownField('inside a described message')), // workflow_execution_info
  ),
  GetWorkflowExecutionHistoryReverse: also(
    field(
      1, // history
      also(
        unknownField('history'),
        field(
          1,
          also(history.v1.HistoryEvent.encode({ ...started, eventId: 1 as never }).finish(), unknownField('event')),
        ),
      ),
    ),
    unknownField('page'),
  ),
  DescribeSchedule: also(
    workflowservice.v1.DescribeScheduleResponse.encode({ schedule: { action: { startWorkflow: {} } } }).finish(),
    field(1, unknownField('schedule')), // schedule
  ),
};
const digests = (...names: string[]) => names.map((name) => digestNamed(name)).sort();

describe('fields of a newer server', () => {
  it('are searched in all that is read of a run', async () => {
    proxy.fault = (method) => answers[method];
    const scan = await runsKind(openExtractor()).scan(namespace, 'w\nr', undefined);
    expect(scan?.gaps).toEqual([]);
    expect(scan?.edges.map(({ digest }) => digest).sort()).toEqual(
      digests('described', 'inside a described message', 'event', 'history', 'page'),
    );
  });

  it('are searched in a schedule', async () => {
    proxy.fault = (method) => answers[method];
    const scan = await schedulesKind(openExtractor()).scan(namespace, 's', undefined);
    expect(scan?.edges.map(({ digest }) => digest)).toEqual(digests('schedule'));
  });

  it('whose payloads are encrypted are gaps', async () => {
    const sealed = common.v1.Payload.encode(payload('binary/encrypted', 'sealed')).finish();
    proxy.fault = () => also(answers.DescribeSchedule as Uint8Array, field(2000, sealed));
    const scan = await schedulesKind(openExtractor()).scan(namespace, 's', undefined);
    expect(scan?.gaps).toEqual([expect.stringContaining('"binary/encrypted"')]);
  });
});
