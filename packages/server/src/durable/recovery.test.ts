/** What recovery.ts relies on in DBOS; a newer DBOS that behaves otherwise fails here. */
import { DBOS } from '@dbos-inc/dbos-sdk';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { keptLog, openSite, type Site } from './durable-fixture.js';
import {
  adoptVersions,
  namedByUnfinished,
  removeEnded,
  resumeWorkOf,
  unfinishedByVersion,
  withRunningWork,
} from './recovery.js';
import { type DurableRuntime, startRuntime } from './runtime.js';

/** Each execution of a step, by workflow, and the gates at which they wait. */
const done: string[] = [];
const gates = new Map<string, { open(): void; readonly opened: Promise<void> }[]>();

function gateOf(id: string): Promise<void> {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  gates.set(id, [...(gates.get(id) ?? []), { open, opened }]);
  return opened;
}

const workflows = {
  async gated(): Promise<string> {
    const id = DBOS.workflowID ?? '';
    await DBOS.runStep(async () => void done.push(`${id} first`), { name: 'first' });
    const by = await DBOS.runStep(
      async () => {
        done.push(`${id} gate`);
        const { executorID } = DBOS;
        await gateOf(id);
        return executorID;
      },
      { name: 'gate' },
    );
    await DBOS.runStep(async () => void done.push(`${id} last`), { name: 'last' });
    return by;
  },
  async waiting(input: { seconds: number }): Promise<unknown> {
    return DBOS.recv('topic', { timeoutSeconds: input.seconds });
  },
};

let postgres: EmbeddedPostgres;
let site: Site;
let runtime: DurableRuntime<typeof workflows>;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
  postgres.exited.catch(() => undefined);
});
afterAll(() => postgres.stop());
beforeEach(async () => {
  site = await openSite(postgres.url);
  runtime = await startAs('a');
});
afterEach(async () => {
  for (const gate of [...gates.values()].flat()) gate.open();
  gates.clear();
  done.length = 0;
  await runtime.close(1000);
  await site.close();
});

async function startAs(executorId: string, applicationVersion = '1'): Promise<DurableRuntime<typeof workflows>> {
  const { url: databaseUrl, schema } = site;
  const started = startRuntime({ databaseUrl, schema, applicationVersion, workflows, log: keptLog() });
  started.setExecutorId(executorId);
  await untilRuns(started, executorId);
  return started;
}

const eventually = <T>(ask: () => T | Promise<T>) => expect.poll(ask, { interval: 5, timeout: 20_000 });
const untilRuns = (started: typeof runtime, id: string): Promise<void> => eventually(() => started.executorId).toBe(id);
const untilAt = (id: string, times = 1): Promise<void> => eventually(() => gates.get(id)?.length ?? 0).toBe(times);
const rowOf = async (id: string): Promise<Record<string, unknown>> => {
  const { rows } = await site.sql.query(`SELECT * FROM ${site.schema}_dbos.workflow_status WHERE workflow_uuid = $1`, [
    id,
  ]);
  return rows[0];
};

describe('work of an executor that is gone', () => {
  it('goes on in another one: finished steps are not repeated, and a second call finds nothing', async () => {
    await runtime.start('gated', 'w1');
    await untilAt('w1');
    runtime.setExecutorId('b');
    await untilRuns(runtime, 'b');
    expect(await withRunningWork(['a', 'b', 'never'], '1')).toEqual(['a']);
    expect(await resumeWorkOf(['a'])).toEqual(['w1']);
    expect(await resumeWorkOf(['a'])).toEqual([]);
    await untilAt('w1', 2);
    gates.get('w1')?.[1]?.open();
    expect(await DBOS.retrieveWorkflow('w1').getResult()).toBe('b');
    expect(done).toEqual(['w1 first', 'w1 gate', 'w1 gate', 'w1 last']);
    expect(await withRunningWork(['a', 'b'], '1')).toEqual([]);
  });

  it('has one outcome though the executor was only slow: what it does later is refused', async () => {
    await runtime.start('gated', 'w2');
    await untilAt('w2');
    runtime.setExecutorId('b');
    await untilRuns(runtime, 'b');
    await resumeWorkOf(['a']);
    await untilAt('w2', 2);
    const [slow, fresh] = gates.get('w2') ?? [];
    slow?.open();
    await eventually(async () => (await rowOf('w2')).executor_id).toBe('b');
    fresh?.open();
    expect(await DBOS.retrieveWorkflow('w2').getResult()).toBe('b');
    expect(done.filter((step) => step === 'w2 last')).toHaveLength(1);
  });

  it('keeps its deadlines', async () => {
    await runtime.start('waiting', 'w3', { seconds: 1000 });
    const deadlineOf = async (): Promise<unknown> => {
      const { rows } = await site.sql.query(
        `SELECT output FROM ${site.schema}_dbos.operation_outputs WHERE workflow_uuid = 'w3' AND function_name = 'DBOS.sleep'`,
      );
      return rows[0]?.output;
    };
    await eventually(deadlineOf).toMatch(/\d{13}/);
    // as if the wait had begun long ago
    await site.sql.query(
      `UPDATE ${site.schema}_dbos.operation_outputs SET output = regexp_replace(output, '\\d{13}', $1)
       WHERE workflow_uuid = 'w3' AND function_name = 'DBOS.sleep'`,
      [String(Date.now() - 1000)],
    );
    runtime.setExecutorId('b');
    await untilRuns(runtime, 'b');
    await resumeWorkOf(['a']);
    expect(await DBOS.retrieveWorkflow('w3').getResult()).toBeNull();
    expect((await rowOf('w3')).executor_id).toBe('b');
  });

  it('is left alone while its version is another one, until it is adopted', async () => {
    await site.sql.query(
      `INSERT INTO ${site.schema}.replica (executor_id, application_version, service_version, host, pid) VALUES ('a', '1', '1', 'h', 1)`,
    );
    await runtime.start('gated', 'w4');
    await untilAt('w4');
    await runtime.close(0);
    runtime = await startAs('b', '2');
    expect(await resumeWorkOf(['a'])).toEqual([]);
    expect(await unfinishedByVersion()).toEqual(new Map([['1', 1]]));
    const adopt = async (versions: string[]): Promise<number> =>
      (await site.database.run(adoptVersions(site.schema), ['2', versions])).length;
    expect(await adopt(['1'])).toBe(0); // a replica of it is left
    await site.sql.query(`UPDATE ${site.schema}.replica SET gone_at = now()`);
    expect(await adopt(['0'])).toBe(0);
    expect(await adopt(['1'])).toBe(1);
    expect(await withRunningWork(['a'], '2')).toEqual(['a']);
    expect(await resumeWorkOf(['a'])).toEqual(['w4']);
    await untilAt('w4', 2);
    gates.get('w4')?.[1]?.open();
    expect(await DBOS.retrieveWorkflow('w4').getResult()).toBe('b');
  });
});

describe('retention', () => {
  it('removes what ended before, with its steps, and nothing that has not ended', async () => {
    await runtime.start('gated', 'ended');
    await untilAt('ended');
    gates.get('ended')?.[0]?.open();
    await DBOS.retrieveWorkflow('ended').getResult();
    await runtime.start('gated', 'open');
    await untilAt('open');
    const { signal } = new AbortController();
    expect(await removeEnded(new Date(Date.now() - 60_000), signal)).toBe(0);
    expect(await removeEnded(new Date(Date.now() + 60_000), signal)).toBe(1);
    expect(await rowOf('ended')).toBeUndefined();
    const { rows } = await site.sql.query(
      `SELECT DISTINCT workflow_uuid AS id FROM ${site.schema}_dbos.operation_outputs`,
    );
    expect(rows).toEqual([{ id: 'open' }]);
    expect(await namedByUnfinished(['a', 'b'])).toEqual(['a']);
    // the id may be used again, and does it all again
    await runtime.start('gated', 'ended');
    await untilAt('ended', 2);
    expect(done.filter((step) => step === 'ended first')).toHaveLength(2);
  });
});
