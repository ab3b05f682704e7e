// A Temporal namespace that is made up as it is asked: what a run holds follows from its number and the seed, so a million
// of them take no memory. Answers are bytes that are decoded as those of a server are; only the network is missing.
import { createHash } from 'node:crypto';
import { digestOf, formatClaim, keyFor } from '@large-payload/core';
import proto from '@temporalio/proto';

const { DescribeWorkflowExecutionResponse, GetWorkflowExecutionHistoryReverseResponse } =
  proto.temporal.api.workflowservice.v1;
const { EventType } = proto.temporal.api.enums.v1;

const runsPerPage = 1000;
/** A run's number stands in the last digits of its id. */
const runIdStart = '5f0c6d5e-7b2a-4c1e-9f3d-';
const workflowIdStart = 'order-';
const digits = 12;
const firstTask = 1_048_576;

/** One blob in so many is held by no run: those are what the sweep finds. */
export const garbageEvery = 20;
/** One run in so many is open: those whose numbers leave this rest. */
const openEvery = 100;
const openRest = 7;
/** Of the run `number`, in SQL: its holder's id, and the cursor of a run that was read. */
export const runInSql = {
  id: `'${workflowIdStart}' || lpad(number::text, ${digits}, '0') || E'\\n${runIdStart}' || lpad(number::text, ${digits}, '0')`,
  isOpen: `number % ${openEvery} = ${openRest}`,
  cursor: `CASE WHEN number % ${openEvery} = ${openRest} THEN '${cursorAt(6)}' ELSE '${cursorAt(11)}' END`,
};

function cursorAt(event) {
  return JSON.stringify({ v: 1, event, version: '0', task: String(firstTask + event - 1), transitions: event + 2 });
}

/** SHA-256 of `{seed}/{number}`, in hex: PostgreSQL makes the rows with the same. */
export function blobDigest(seed, number) {
  return createHash('sha256').update(`${seed}/${number}`).digest('hex');
}

/**
 * Runs have the numbers from `gone` to `total`; each holds blobs of the catalog's `rows`, so that all runs together hold all
 * but one in `garbageEvery`. Closed ones have 11 events, open ones 6, and 9 once they have `movedOn`.
 */
export class ModelCluster {
  name = 'bench';
  /** Moves of the world: the bench sets them between two marks. */
  gone = 0;
  total;
  movedOn = false;
  /** Requests, by kind. */
  calls = {};
  /** What the model itself took, in ms: decoding is not among it, a client has to do that as well. */
  ownMs = 0;
  #templates = new Map();
  #runs;
  #rows;
  #seed;

  constructor({ runs, rows, seed, blobNamespace }) {
    this.total = runs;
    this.#runs = runs;
    this.#rows = rows;
    this.#seed = seed;
    this.blobNamespace = blobNamespace;
  }

  async namespaces() {
    return [this.namespace()];
  }

  async close() {}

  namespace() {
    return {
      cluster: this.name,
      name: this.blobNamespace,
      describe: async () => {
        this.#count('namespace');
        return {
          clusterId: 'bench-1',
          namespaceId: 'bench-1',
          serverVersion: '1.32.0',
          retentionMs: 30 * 86_400_000,
          gaps: [],
        };
      },
      listRuns: async (next) => this.#listRuns(next),
      describeRun: async ({ runId }) => this.#describeRun(numberOf(runId)),
      historyBackwards: async ({ runId }) => this.#history(numberOf(runId)),
      listSchedules: async () => {
        this.#count('list schedules');
        return { items: [] };
      },
      describeSchedule: async () => undefined,
    };
  }

  /** As of a real cluster: the usual runs, then one page of those of system workflows. */
  #listRuns(next) {
    this.#count('list runs');
    return this.#own(() => {
      const from = next === undefined ? this.gone : Number(Buffer.from(next).toString());
      const end = Math.min(from + runsPerPage, this.total);
      const items = Array.from({ length: end - from }, (_, index) => this.#listed(from + index));
      return items.length === 0 ? { items } : { items, next: Buffer.from(String(end)) };
    });
  }

  #listed(number) {
    return { workflowId: workflowIdOf(number), runId: runIdOf(number), isClosed: !isOpen(number) };
  }

  #describeRun(number) {
    this.#count('describe run');
    if (number < this.gone || number >= this.total) return undefined;
    const bytes = this.#own(() => this.#template('described', number).with(number, []));
    return DescribeWorkflowExecutionResponse.decode(bytes);
  }

  #history(number) {
    this.#count('history');
    if (number < this.gone || number >= this.total) return undefined;
    const bytes = this.#own(() => {
      const blobs = this.#blobsOf(number);
      const found = blobs.map((blob) => blobDigest(this.#seed, blob));
      return this.#template('history', number, blobs.length).with(number, found);
    });
    return { items: GetWorkflowExecutionHistoryReverseResponse.decode(bytes).history.events };
  }

  /** Numbers of blobs. Together the first runs hold all rows that are held at all; later ones hold a blob of their own. */
  #blobsOf(number) {
    if (number >= this.#runs) return [this.#rows + number];
    const blobs = [];
    for (let blob = number % this.#rows; blob < this.#rows; blob += this.#runs) {
      blobs.push(blob % garbageEvery === 0 ? blob + 1 : blob);
    }
    return blobs;
  }

  #template(kind, number, blobs = 0) {
    const state = isOpen(number) ? (this.movedOn ? 'movedOn' : 'open') : 'closed';
    const name = `${kind} ${state} ${blobs}`;
    const known = this.#templates.get(name);
    if (known !== undefined) return known;
    const template = new Template(
      kind === 'history' ? historyOf(state, blobs, this.blobNamespace) : descriptionOf(state),
      blobs,
    );
    this.#templates.set(name, template);
    return template;
  }

  #count(kind) {
    this.calls[kind] = (this.calls[kind] ?? 0) + 1;
  }

  #own(work) {
    const from = performance.now();
    try {
      return work();
    } finally {
      this.ownMs += performance.now() - from;
    }
  }
}

function isOpen(number) {
  return number % openEvery === openRest;
}

function runIdOf(number) {
  return `${runIdStart}${padded(number)}`;
}

function workflowIdOf(number) {
  return `${workflowIdStart}${padded(number)}`;
}

function padded(number) {
  return String(number).padStart(digits, '0');
}

function numberOf(runId) {
  return Number(runId.slice(runIdStart.length));
}

/** An encoded answer with gaps of a fixed length: ids of the run, digests of its blobs. */
class Template {
  #bytes;
  #numbers;
  #digests;

  constructor(bytes, blobs) {
    this.#bytes = bytes;
    this.#numbers = placesOf(bytes, padded(0));
    this.#digests = Array.from({ length: blobs }, (_, index) => placesOf(bytes, placeholder(index)));
  }

  with(number, blobs) {
    const bytes = Buffer.from(this.#bytes);
    const text = padded(number);
    for (const at of this.#numbers) bytes.write(text, at, 'latin1');
    this.#digests.forEach((places, index) => {
      for (const at of places) bytes.write(blobs[index], at, 'latin1');
    });
    return bytes;
  }
}

function placesOf(bytes, text) {
  const places = [];
  for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + text.length)) places.push(at);
  return places;
}

function placeholder(index) {
  return digestOf(Buffer.from(`the place of blob ${index}`)).slice('sha256:'.length);
}

function claimAt(index, namespace) {
  const digest = `sha256:${placeholder(index)}`;
  const metadata = { encoding: Buffer.from('json/plain') };
  return formatClaim({ metadata, size: 500_000, digest, key: keyFor(namespace, digest, null) });
}

const small = { metadata: { encoding: Buffer.from('json/plain') }, data: Buffer.from('{"customer":1234}') };
const lengths = { closed: 11, open: 6, movedOn: 9 };

function descriptionOf(state) {
  return DescribeWorkflowExecutionResponse.encode({
    workflowExecutionInfo: {
      execution: { workflowId: workflowIdOf(0), runId: runIdOf(0) },
      type: { name: 'order' },
      taskQueue: 'orders',
      status: state === 'closed' ? 2 : 1,
      historyLength: lengths[state],
      stateTransitionCount: lengths[state] + 2,
      memo: { fields: { note: small } },
    },
    pendingActivities:
      state === 'closed'
        ? []
        : [{ activityId: '2', activityType: { name: 'pack' }, heartbeatDetails: { payloads: [small] }, attempt: 1 }],
  }).finish();
}

/** The input of the workflow and of its first activity are claims; the newest event comes first. */
function historyOf(state, blobs, namespace) {
  const claims = Array.from({ length: blobs }, (_, index) => claimAt(index, namespace));
  const input = { payloads: claims };
  const task = (from) => [
    ['WORKFLOW_TASK_SCHEDULED', { taskQueue: { name: 'orders' }, attempt: 1 }],
    ['WORKFLOW_TASK_STARTED', { scheduledEventId: from, identity: '1@worker' }],
    ['WORKFLOW_TASK_COMPLETED', { scheduledEventId: from, startedEventId: from + 1, identity: '1@worker' }],
  ];
  const begun = [
    [
      'WORKFLOW_EXECUTION_STARTED',
      {
        workflowType: { name: 'order' },
        taskQueue: { name: 'orders' },
        input,
        originalExecutionRunId: runIdOf(0),
        firstExecutionRunId: runIdOf(0),
        workflowId: workflowIdOf(0),
        memo: { fields: { note: small } },
        attempt: 1,
      },
    ],
    ...task(2),
    ['ACTIVITY_TASK_SCHEDULED', { activityId: '1', activityType: { name: 'price' }, input }],
    ['ACTIVITY_TASK_STARTED', { scheduledEventId: 5, identity: '1@worker', requestId: runIdOf(0) }],
  ];
  const priced = ['ACTIVITY_TASK_COMPLETED', { scheduledEventId: 5, startedEventId: 6, result: { payloads: [small] } }];
  const closing = ['WORKFLOW_EXECUTION_COMPLETED', { workflowTaskCompletedEventId: 10, result: { payloads: [small] } }];
  const events = {
    open: begun,
    movedOn: [...begun, priced, ...task(8).slice(0, 2)],
    closed: [...begun, priced, ...task(8), closing],
  }[state];
  const numbered = events.map(([type, attributes], index) => ({
    eventId: index + 1,
    eventTime: { seconds: 1_790_000_000 + index },
    eventType: EventType[`EVENT_TYPE_${type}`],
    taskId: firstTask + index,
    [attributesOf(type)]: attributes,
  }));
  return GetWorkflowExecutionHistoryReverseResponse.encode({ history: { events: numbered.reverse() } }).finish();
}

/** `ACTIVITY_TASK_STARTED` → `activityTaskStartedEventAttributes`. */
function attributesOf(type) {
  const words = type.toLowerCase().replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  return `${words}EventAttributes`;
}
