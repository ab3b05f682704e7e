import proto from '@temporalio/proto';
import { describe, expect, it } from 'vitest';
import { claimForms, goClaim, received } from './extract-fixture.js';
import { openExtractor } from './extractor.js';

/** protobufjs' own reflection, read without the code under test. */
interface Field {
  readonly name: string;
  readonly repeated: boolean;
  readonly map: boolean;
  readonly resolvedType: Type | object | null;
  resolve(): unknown;
}
interface Type {
  readonly fullName: string;
  readonly fieldsArray: readonly Field[];
}
interface Method {
  readonly resolvedResponseType: Type;
  resolve(): unknown;
}

const root = proto as unknown as {
  lookup(name: string): { methodsArray: readonly Method[] };
  lookupType(name: string): Type;
};
const service = root.lookup('temporal.api.workflowservice.v1.WorkflowService');
const responses = service.methodsArray.map((method) => {
  method.resolve();
  return method.resolvedResponseType;
});
const types = [...new Set([...responses, root.lookupType('temporal.api.history.v1.HistoryEvent')])];

function messageOf({ resolvedType }: Field): Type | undefined {
  return resolvedType !== null && 'fieldsArray' in resolvedType ? resolvedType : undefined;
}

/** Whether a payload can be in a type at all, with what was asked of on the way. */
const reaching = new Map<string, boolean>();
for (let before = -1; before !== reaching.size; ) {
  before = reaching.size;
  const seen = new Set<string>();
  const visit = (type: Type): boolean => {
    if (type.fullName === '.temporal.api.common.v1.Payload' || reaching.has(type.fullName)) return true;
    if (seen.has(type.fullName)) return false;
    seen.add(type.fullName);
    let reaches = false;
    for (const field of type.fieldsArray) {
      field.resolve();
      const inner = messageOf(field);
      if (inner !== undefined && visit(inner)) reaches = true;
    }
    if (reaches) reaching.set(type.fullName, true);
    return reaches;
  };
  for (const type of types) visit(type);
}

/** All ways from a type to a payload; a type that contains itself is entered twice. */
function* pathsFrom(type: Type, outer: readonly string[] = []): Generator<Field[]> {
  if (outer.filter((name) => name === type.fullName).length > 1) return;
  for (const field of type.fieldsArray) {
    const inner = messageOf(field);
    if (inner === undefined) continue;
    if (inner.fullName === '.temporal.api.common.v1.Payload') yield [field];
    else if (reaching.has(inner.fullName))
      for (const rest of pathsFrom(inner, [...outer, type.fullName])) yield [field, ...rest];
  }
}

function planted(path: readonly Field[], payload: object): object {
  const [field, ...rest] = path;
  if (field === undefined) return payload;
  const value = planted(rest, payload);
  return { [field.name]: field.map ? { some: value } : field.repeated ? [{}, value] : value };
}

function textOf(path: readonly Field[]): string {
  return path.map(({ name }) => name).join('.');
}

describe('a payload is found', () => {
  const extractor = openExtractor();
  const claim = goClaim('planted');
  const names = types.filter(({ fullName }) => reaching.has(fullName)).map(({ fullName }) => fullName.slice(1));

  it('in all messages that can have one: those of history, runs and schedules among them', () => {
    expect(names.length).toBeGreaterThan(20);
    expect(names).toEqual(
      expect.arrayContaining([
        'temporal.api.history.v1.HistoryEvent',
        'temporal.api.workflowservice.v1.DescribeWorkflowExecutionResponse',
        'temporal.api.workflowservice.v1.DescribeScheduleResponse',
        'temporal.api.workflowservice.v1.GetWorkflowExecutionHistoryReverseResponse',
      ]),
    );
  });

  it.each(names)('at every place of %s', async (name) => {
    const missed: string[] = [];
    let paths = 0;
    for (const path of pathsFrom(root.lookupType(name))) {
      paths += 1;
      const message = received(name, planted(path, claim.payload));
      const { edges, gaps } = await extractor.extract(name, message);
      const isFound = edges.length === 1 && edges[0]?.digest === claim.edge.digest && edges[0].namespace === 'orders';
      if (!isFound || gaps.length > 0) missed.push(textOf(path));
    }
    expect(missed).toEqual([]);
    expect(paths).toBeGreaterThan(0);
  });

  it.each(Object.entries(claimForms))('written as %s, at every place of an event', async (_, formed) => {
    const form = formed('planted');
    const name = 'temporal.api.history.v1.HistoryEvent';
    for (const path of pathsFrom(root.lookupType(name))) {
      const found = await extractor.extract(name, received(name, planted(path, form.payload)));
      expect({ path: textOf(path), ...found }).toEqual({ path: textOf(path), edges: [form.edge], gaps: [] });
    }
  });
});

describe('the places in history', () => {
  it.each([
    'workflowExecutionStartedEventAttributes.input.payloads',
    'workflowExecutionStartedEventAttributes.memo.fields',
    'workflowExecutionStartedEventAttributes.header.fields',
    'workflowExecutionStartedEventAttributes.searchAttributes.indexedFields',
    'workflowExecutionStartedEventAttributes.lastCompletionResult.payloads',
    'workflowExecutionStartedEventAttributes.continuedFailure.encodedAttributes',
    'workflowExecutionCompletedEventAttributes.result.payloads',
    'workflowExecutionFailedEventAttributes.failure.applicationFailureInfo.details.payloads',
    'workflowExecutionFailedEventAttributes.failure.cause.encodedAttributes',
    'workflowExecutionSignaledEventAttributes.input.payloads',
    'workflowExecutionUpdateAcceptedEventAttributes.acceptedRequest.input.args.payloads',
    'workflowExecutionUpdateCompletedEventAttributes.outcome.success.payloads',
    'activityTaskScheduledEventAttributes.input.payloads',
    'activityTaskCompletedEventAttributes.result.payloads',
    'activityTaskFailedEventAttributes.failure.applicationFailureInfo.details.payloads',
    'activityTaskTimedOutEventAttributes.failure.timeoutFailureInfo.lastHeartbeatDetails.payloads',
    'activityTaskCanceledEventAttributes.details.payloads',
    'markerRecordedEventAttributes.details.payloads',
    'workflowExecutionContinuedAsNewEventAttributes.input.payloads',
    'startChildWorkflowExecutionInitiatedEventAttributes.input.payloads',
    'childWorkflowExecutionCompletedEventAttributes.result.payloads',
    'signalExternalWorkflowExecutionInitiatedEventAttributes.input.payloads',
    'upsertWorkflowSearchAttributesEventAttributes.searchAttributes.indexedFields',
    'workflowPropertiesModifiedEventAttributes.upsertedMemo.fields',
    'nexusOperationScheduledEventAttributes.input',
    'nexusOperationCompletedEventAttributes.result',
    'userMetadata.summary',
    'userMetadata.details',
  ])('have %s among them', (place) => {
    const places = [...pathsFrom(root.lookupType('temporal.api.history.v1.HistoryEvent'))].map(textOf);
    expect(places).toContain(place);
  });

  it('that are not in history are those of a description', () => {
    const of = (name: string): string[] =>
      [...pathsFrom(root.lookupType(`temporal.api.workflowservice.v1.${name}`))].map(textOf);
    expect(of('DescribeWorkflowExecutionResponse')).toEqual(
      expect.arrayContaining([
        'pendingActivities.heartbeatDetails.payloads',
        'pendingActivities.lastFailure.encodedAttributes',
        'workflowExecutionInfo.memo.fields',
        'executionConfig.userMetadata.summary',
      ]),
    );
    expect(of('DescribeScheduleResponse')).toEqual(
      expect.arrayContaining(['schedule.action.startWorkflow.input.payloads', 'memo.fields']),
    );
  });
});

describe('texts and bytes beside payloads', () => {
  const digest = goClaim('planted').edge.digest;
  const event = 'temporal.api.history.v1.HistoryEvent';
  const response = (name: string): string => `temporal.api.workflowservice.v1.${name}Response`;
  const inMap = { memo: { fields: { [digest]: {} } } };

  it.each([
    ['a message of a failure', event, { workflowExecutionFailedEventAttributes: { failure: { message: digest } } }],
    ['a name in a map', event, { workflowExecutionStartedEventAttributes: inMap }],
    ['bytes', response('DescribeSchedule'), { conflictToken: Buffer.from(digest) }],
    ['bytes in a list', response('GetWorkflowExecutionHistory'), { rawHistory: [{ data: Buffer.from(digest) }] }],
  ])('are searched: %s', async (_, name, message) => {
    const found = await openExtractor().extract(name, received(name, message));
    expect(found).toEqual({ edges: [{ digest }], gaps: [] });
  });
});
