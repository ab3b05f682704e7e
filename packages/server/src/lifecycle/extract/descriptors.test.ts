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

describe('texts and bytes beside payloads', () => {
  const digest = goClaim('planted').edge.digest;

  it.each([
    [
      'temporal.api.history.v1.HistoryEvent',
      { workflowExecutionFailedEventAttributes: { failure: { message: digest } } },
    ],
    [
      'temporal.api.history.v1.HistoryEvent',
      { workflowExecutionStartedEventAttributes: { memo: { fields: { [digest]: {} } } } },
    ],
    ['temporal.api.workflowservice.v1.DescribeScheduleResponse', { conflictToken: Buffer.from(digest) }],
    [
      'temporal.api.workflowservice.v1.GetWorkflowExecutionHistoryResponse',
      { rawHistory: [{ data: Buffer.from(digest) }] },
    ],
  ])('are searched: %s %j', async (name, message) => {
    const found = await openExtractor().extract(name, received(name, message));
    expect(found).toEqual({ edges: [{ digest }], gaps: [] });
  });
});
