/**
 * A Temporal cluster that fails, in each way that is likely: while it does, nothing leaves `live`, however old, and
 * `lps gc status` says why. When it is well again, what nobody holds goes.
 *
 * One service asks all of them at once. Each fault has a cluster of its own (a proxy before the one real server), a Temporal
 * namespace, and a namespace of blobs, all of the fault's name; in each there is an orphan, and a blob that a run holds.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Digest, digestOf, keyFor, openHttpStore } from '@large-payload/core';
import { EncryptionCodec } from '@large-payload/temporal';
import { describeWith, startTemporal, tempDir } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { grpcStatus } from '../packages/server/src/lifecycle/temporal/grpc-failure.ts';
import { type GrpcFault, type GrpcProxy, namespaceNotFound, startGrpcProxy } from './support/grpc-proxy.ts';
import { lps } from './support/lps.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

type Answering = (method: string) => GrpcFault | undefined;

interface Fault {
  /** What the proxy does. Absent: the fault is elsewhere. */
  readonly answers?: Answering;
  /** What an operator reads of it. */
  readonly says: RegExp;
}

/** The n-th call of a method in each mark, and those behind it: what it is answered, and what becomes of that. */
const failingCalls: readonly [method: string, n: number, answer: keyof typeof grpcStatus | 'cut'][] = [
  ['DescribeNamespace', 1, 'UNAVAILABLE'],
  ['GetClusterInfo', 1, 'UNAUTHENTICATED'],
  ['ListActivityExecutions', 1, 'PERMISSION_DENIED'],
  ['ListNexusOperationExecutions', 1, 'INTERNAL'],
  // of schedules that are no workflows; runs, and those of schedules and batch jobs; both again
  ['ListWorkflowExecutions', 1, 'UNKNOWN'],
  ['ListWorkflowExecutions', 2, 'RESOURCE_EXHAUSTED'],
  ['ListWorkflowExecutions', 3, 'INVALID_ARGUMENT'],
  ['ListWorkflowExecutions', 4, 'UNAVAILABLE'],
  ['ListWorkflowExecutions', 5, 'UNAUTHENTICATED'],
  ['ListSchedules', 1, 'UNIMPLEMENTED'],
  ['ListSchedules', 2, 'cut'],
  ['DescribeWorkflowExecution', 1, 'INTERNAL'],
  ['DescribeWorkflowExecution', 2, 'PERMISSION_DENIED'],
  ['GetWorkflowExecutionHistoryReverse', 1, 'NOT_FOUND'],
  ['DescribeSchedule', 1, 'UNAUTHENTICATED'],
];

const fromTheStart = new Map<string, Fault>(
  failingCalls.map(([method, n, answer]) => {
    const code = answer === 'cut' ? 'UNAVAILABLE' : answer;
    const fault = answer === 'cut' ? answer : { status: grpcStatus[answer], message: 'a fault of the test' };
    const says = new RegExp(
      `not complete: [^;]*: ${method}( of \\S+)?: ${code}\\b.*\\(TEMPORAL_(UNAVAILABLE|REFUSED)\\)$`,
    );
    return [`${method}-${n}`, { answers: fromCall(method, n, fault), says }];
  }),
);

/** Others begin when there have been complete marks already. */
const later = new Map<string, Fault>([
  [
    'slow',
    { answers: () => 'never', says: /DescribeNamespace of slow: DEADLINE_EXCEEDED: .*is the cluster overloaded/ },
  ],
  [
    'vanished',
    {
      answers: () => namespaceNotFound('vanished'),
      says: /DescribeNamespace of vanished: NOT_FOUND: no such namespace; is the namespace still there/,
    },
  ],
  [
    'half-vanished',
    {
      answers: (method) =>
        /^(Describe(Work|Sched)|Get.*History)/.test(method) ? namespaceNotFound('half-vanished') : undefined,
      says: /(Workflow\w+|DescribeSchedule) of half-vanished: NOT_FOUND: no such namespace; is the namespace still there/,
    },
  ],
  [
    'expired',
    { says: /DescribeNamespace of expired: UNAUTHENTICATED: .*is the key in api-key-file, or the certificate/ },
  ],
  ['deleted', { says: /DescribeNamespace of deleted: NOT_FOUND: .*; is the namespace still there/ }],
]);

const secret = new Map<string, Fault>([
  [
    'secret',
    { says: /run "held [0-9a-f-]+": the encoding of a payload is not understood \("binary\/encrypted"\): configure/ },
  ],
]);

const faults = new Map([...fromTheStart, ...later, ...secret]);
const names = [...faults.keys(), 'well'];
const codecKey = randomBytes(32);

/** G, Q, V and the time between rounds. */
const times = ['--grace', '1s', '--quarantine', '1s', '--visibility-bound', '200ms', '--collect-interval', '1s'];

interface Status {
  readonly namespaces: readonly { known: { cluster: string }; marks: readonly { isComplete: boolean }[] }[];
  readonly brakes: readonly { kind: string }[];
  readonly sums: Readonly<Record<string, { blobs: number | string }>>;
}

const temporal = await startTemporal();

describeWith(describe, 'the collection, while Temporal fails', temporal, ({ address, registerNamespace, stop }) => {
  const dataDir = tempDir('collection-faults');
  const dir = tempDir('clusters');
  const [clusters, keyFile] = [join(dir, 'clusters.yaml'), join(dir, 'api.key')];
  const proxies = new Map<string, GrpcProxy>();
  const held = new Map(names.map((name) => [name, newBlob(name)]));
  const orphans = new Map<string, string>();
  let service: RunningService;
  let store: ReturnType<typeof openHttpStore>;
  let connection: Connection;
  let validKey = 'first';

  beforeAll(async () => {
    connection = await Connection.connect({ address });
    writeFileSync(keyFile, validKey);
    await Promise.all(names.map(open));
    const lines = names.map((name) => {
      const key = name === 'expired' ? ', api-key-file: api.key, tls: false' : '';
      const where = `address: "${proxies.get(name)?.address}", namespaces: [${name}]${key}`;
      return `  - { name: ${name}, ${where}, request-timeout-seconds: 0.5 }\n`;
    });
    writeFileSync(clusters, `clusters:\n${lines.join('')}`);
    // before the blobs are there: with so short a grace, they might be gone before anybody holds them
    await Promise.all(names.map(hold));
    await start();
    for (const blob of held.values()) await put(blob);
  });
  afterAll(async () => {
    await store?.close?.();
    await service?.stop();
    await Promise.all([...proxies.values()].map((proxy) => proxy.close()));
    await connection?.close();
    await stop();
  });

  const keyOf = (name: string): string => held.get(name)?.key ?? '';

  async function open(name: string): Promise<void> {
    await registerNamespace(name);
    const guarded = name === 'expired' ? { authorization: () => `Bearer ${validKey}` } : {};
    const proxy = await startGrpcProxy(address, guarded);
    proxy.fault = fromTheStart.get(name)?.answers;
    proxies.set(name, proxy);
  }

  async function start(more: { args?: string[]; env?: Record<string, string> } = {}): Promise<void> {
    const args = ['--unsafe-times', ...times, '--clusters', clusters, '--collect', names.join(',')];
    const settings = [...args, '--collect-max-percent', '100', ...(more.args ?? [])];
    service = await startService({ dataDir, args: settings, env: more.env ?? {} });
    await store?.close?.();
    store = openHttpStore({ url: service.url });
  }

  async function put({ key, bytes, digest }: Blob): Promise<void> {
    await store.put(key, bytes, { digest, size: bytes.length });
  }

  async function stored(name: string): Promise<string> {
    const blob = newBlob(name);
    await put(blob);
    return blob.key;
  }

  /** By a run, and by a schedule; nobody works on them. */
  async function hold(namespace: string): Promise<void> {
    const codec = new EncryptionCodec({ keys: { k1: codecKey }, keyId: 'k1' });
    const dataConverter = namespace === 'secret' ? { payloadCodecs: [codec] } : {};
    const client = new Client({ connection, namespace, dataConverter });
    const args = [{ large: keyOf(namespace) }];
    await client.workflow.start('waits', { taskQueue: 'nobody', workflowId: 'held', args });
    await client.schedule.create({
      scheduleId: 'rare',
      spec: { intervals: [{ every: '300d' }] },
      action: { type: 'startWorkflow', workflowType: 'waits', taskQueue: 'nobody', args },
    });
  }

  async function status(): Promise<Status> {
    return JSON.parse((await lps({ dataDir }, 'gc', 'status', '--json')).out);
  }

  async function isThere(key: string | undefined): Promise<boolean> {
    for await (const found of store.list(`/blobs/${key?.split('/')[2]}/`)) if (found.key === key) return true;
    return false;
  }

  /** Those of the orphans that are still there, in whatever state. A list touches nothing. */
  async function left(among: Iterable<string>): Promise<string[]> {
    const there = await Promise.all([...among].map(async (name) => ((await isThere(orphans.get(name))) ? [name] : [])));
    return there.flat();
  }

  async function completeMarks(): Promise<string> {
    const { namespaces } = await status();
    const complete = namespaces.flatMap(({ known, marks }) => (marks[0]?.isComplete ? [known.cluster] : []));
    return complete.sort().join();
  }

  /** Asks once when a round has ended, until there is an answer. */
  async function afterARound<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
    let last: string | undefined;
    return until(
      what,
      async () => {
        const output = service.output();
        const end = output.lastIndexOf('"a round of the collection has ended"');
        // the time is at its beginning
        const line = output.slice(output.lastIndexOf('\n', end) + 1, Math.max(end, 0));
        if (end < 0 || line === last) return undefined;
        last = line;
        return ask();
      },
      180_000,
    );
  }

  it('finds complete marks where nothing is wrong, and nowhere else', async () => {
    const expected = [...later.keys(), 'well'].sort().join();
    await afterARound('complete marks', async () => ((await completeMarks()) === expected ? true : undefined));
  }, 200_000);

  it('lets nothing go, and says why', async () => {
    for (const [name, { answers }] of later) {
      const proxy = proxies.get(name);
      if (proxy !== undefined) proxy.fault = answers;
    }
    validKey = 'second';
    await connection.operatorService.deleteNamespace({ namespace: 'deleted' });
    await afterARound('the last of the faults', async () => ((await completeMarks()) === 'well' ? true : undefined));
    for (const name of names) orphans.set(name, await stored(name));

    // by the time that this one has gone, the others would have
    await afterARound('the orphan to go where all is well', async () =>
      (await isThere(orphans.get('well'))) ? undefined : true,
    );

    expect(await left(names)).toEqual([...faults.keys()]);
    const { sums, brakes } = await status();
    const counts = Object.entries(sums).map(([state, { blobs }]) => [state, Number(blobs)] as const);
    expect(Object.fromEntries(counts.filter(([, blobs]) => blobs > 0))).toEqual({
      live: 2 * names.length - 1,
      gone: 1,
    });
    expect(brakes).toEqual([]);
    // on a machine that stalls, a mark may fail with a deadline before it comes to its fault: the next one does not
    const complete: string[] = [];
    let unexplained: string[] = [];
    const unsaid = new Map([...faults].map(([name, { says }]) => [name, says]));
    await afterARound('what gc status says', async () => {
      const { code, out } = await lps({ dataDir }, 'gc', 'status');
      if (code !== 0) return undefined;
      const lineOf = (name: string) => out.split('\n').find((one) => one.includes(` ${name}/${name} `)) ?? '';
      complete.push(...[...faults.keys()].filter((name) => !/ not complete: /.test(lineOf(name))));
      for (const [name, says] of unsaid) if (says.test(lineOf(name))) unsaid.delete(name);
      unexplained = [...unsaid.keys()].map(lineOf);
      return complete.length > 0 || (unsaid.size === 0 && / complete$/.test(lineOf('well'))) || undefined;
    }).catch((cause: unknown) => {
      throw new Error(`not said as it should be:\n${unexplained.join('\n')}`, { cause });
    });
    expect(complete).toEqual([]);
  }, 600_000);

  it('lets orphans go, and nothing else, when the faults are over', async () => {
    for (const proxy of proxies.values()) proxy.fault = undefined;
    // the service reads it again
    writeFileSync(keyFile, validKey);
    await registerNamespace('deleted');
    const stopped = await afterARound('a namespace that was made anew', async () => {
      const { out } = await lps({ dataDir }, 'gc', 'status');
      return /^stopped .*/m.exec(out)?.[0];
    });
    expect(stopped).toMatch(/identity_changed since \S+: deleted\/deleted: the namespace was made anew/);
    expect((await lps({ dataDir }, 'gc', 'resume', '--kind', 'identity_changed')).code).toBe(0);

    const others = [...fromTheStart.keys(), ...later.keys()];
    await afterARound('the orphans to go', async () => ((await left(others)).length === 0 ? true : undefined));
    expect(await left(['secret'])).toEqual(['secret']);
    // what was held there went with the namespace
    for (const name of names) if (name !== 'deleted') expect(await isThere(keyOf(name)), name).toBe(true);
  }, 400_000);

  it('lets the last one go once the codec is configured, and keeps what is in encrypted payloads', async () => {
    await service.stop();
    await start({
      args: ['--codec-pre-storage', 'aes-gcm'],
      env: { LPS_CODEC_KEYS: `k1=${codecKey.toString('base64')}` },
    });
    await afterARound('the orphan to go', async () => ((await left(['secret'])).length === 0 ? true : undefined));
    const key = keyOf('secret');
    expect(await isThere(key)).toBe(true);
    expect((await lps({ dataDir }, 'gc', 'explain', key)).out).toMatch(/state {6}live[\s\S]*held by {4}run held/);
  }, 400_000);
});

interface Blob {
  readonly key: string;
  readonly bytes: Buffer;
  readonly digest: Digest;
}

function newBlob(namespace: string): Blob {
  const bytes = randomBytes(1000);
  const digest = digestOf(bytes);
  return { key: keyFor(namespace, digest, null), bytes, digest };
}

function fromCall(method: string, n: number, answer: GrpcFault): Answering {
  let calls = 0;
  return (called) => {
    // with it a mark begins
    if (called === 'DescribeNamespace') calls = 0;
    if (called !== method) return undefined;
    calls += 1;
    return calls >= n ? answer : undefined;
  };
}
