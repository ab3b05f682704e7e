/** Takedowns as a client of the service makes them. */
import { randomUUID } from 'node:crypto';
import { type Answer, codeOf, metric, request } from './blobs.ts';
import { until } from './until.ts';

export interface SeenTakedown {
  readonly id: string;
  readonly state: 'planning' | 'accepting' | 'accepted' | 'completed' | 'failed';
  readonly problem?: string;
  readonly objects: number;
  readonly erased: number;
}

export interface AskedTakedown {
  readonly id?: string;
  readonly selector: Readonly<Record<string, string>>;
  readonly block?: boolean;
  readonly withSameDigest?: boolean;
}

const patienceMs = 120_000;
/** A replica that has just lost Postgres takes the most of a minute to say so; another one is asked long before that. */
const answerMs = 5000;
const headers = { 'content-type': 'application/json' };

/** Until it runs workflows. A takedown that is asked for before is begun by the leader, up to five seconds later. */
export async function untilDurable(port: number): Promise<void> {
  await until('workflows that run', async () => ((await metric(port, 'lps_durable_running')) === 1 ? true : undefined));
}

/**
 * The answer to a read, asked again where clients do so: without a lease on reading a read that takes longer than M is cut, and
 * with an M of a second a busy machine is enough for that.
 */
export function answered(ask: () => Promise<Answer>): Promise<Answer> {
  return until('an answer', async () => {
    const answer = await ask();
    return answer.status === 503 ? undefined : answer;
  });
}

/** Asks for one; resolves when it is on record. */
export async function takeDown(port: number, asked: AskedTakedown): Promise<string> {
  const body = Buffer.from(JSON.stringify({ id: randomUUID(), reason: 'a test', ...asked }));
  const answer = await request(port, '/v3/takedowns', { method: 'POST', headers, body });
  if (answer.status !== 202) throw new Error(`${answer.status} ${codeOf(answer)} ${answer.text}`);
  return JSON.parse(answer.text).id;
}

export async function takedown(port: number, id: string, signal?: AbortSignal): Promise<SeenTakedown> {
  return JSON.parse((await request(port, `/v3/takedowns/${id}`, signal && { signal })).text);
}

/** For polling: rejects when it is not answered soon. */
export function soonTakedown(port: number, id: string): Promise<SeenTakedown> {
  return takedown(port, id, AbortSignal.timeout(answerMs));
}

/** Until it is so far, or farther. */
export function untilTakedown(port: () => number, id: string, state: 'accepted' | 'completed'): Promise<SeenTakedown> {
  const enough: readonly string[] = state === 'accepted' ? ['accepted', 'completed'] : ['completed'];
  let last: SeenTakedown | undefined;
  const ask = async (): Promise<SeenTakedown | undefined> => {
    last = await soonTakedown(port(), id);
    if (last.state === 'failed') return last;
    return enough.includes(last.state) ? last : undefined;
  };
  return until(`a takedown that is ${state}`, ask, patienceMs).catch((cause) => {
    throw new Error(`not ${state}: ${JSON.stringify(last)}`, { cause });
  });
}

export async function receiptOf(port: number, id: string): Promise<string> {
  return (await request(port, `/v3/takedowns/${id}/receipt`)).text;
}
