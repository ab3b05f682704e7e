import { LpsError } from '@large-payload/core';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Authenticator } from '../auth/principal.js';
import { upstreamAuthenticator } from './upstream-access.js';

const M = 60_000;
const start = 1_800_000_000_000;
const grants = [{ namespaces: ['orders'], rights: ['read'] }];
const refused = new LpsError('UNAUTHENTICATED', 'no');

describe('who calls a cache node', () => {
  let nowMs: number;
  let asleepMs: number;
  let asked: string[];
  let answer: (token: string) => unknown;
  let authenticator: Authenticator;
  const open = (limits: object = {}): Authenticator =>
    upstreamAuthenticator({
      api: {
        async json(method, path, call) {
          expect([method, path]).toEqual(['GET', '/v3/access']);
          asked.push(call?.token ?? '');
          return answer(call?.token ?? '');
        },
      },
      maxAgeMs: M,
      clock: () => ({ steadyMs: nowMs - asleepMs, wallMs: start + nowMs }),
      ...limits,
    });
  beforeEach(() => {
    nowMs = 0;
    asleepMs = 0;
    asked = [];
    answer = (token) => ({ subject: `token:${token}`, grants });
    authenticator = open();
  });
  const code = (token: string): Promise<unknown> =>
    authenticator.authenticate(token).then(
      ({ id }) => id,
      (error) => error.code,
    );

  it('is asked once, whoever waits', async () => {
    const principals = await Promise.all([1, 2, 3].map(() => authenticator.authenticate('a')));
    expect(principals).toEqual(Array(3).fill({ id: 'token:a', grants }));
    expect(await code('a')).toBe('token:a');
    expect(asked).toEqual(['a']);
  });

  it('is asked again beside a request after half of M, and before one after all of it', async () => {
    await code('a');
    nowMs = M / 2;
    answer = () => {
      throw refused;
    };
    expect(await code('a')).toBe('token:a'); // and from then on he is not let in
    expect(asked).toHaveLength(2);
    expect(await code('a')).toBe('UNAUTHENTICATED');
    expect(asked).toHaveLength(2);
  });

  it('is let in for no longer than M while upstream cannot be asked, by either clock', async () => {
    await code('a');
    answer = () => {
      throw new LpsError('SERVICE_UNREACHABLE', 'away');
    };
    nowMs = M - 1;
    expect(await code('a')).toBe('token:a');
    nowMs = M;
    expect(await code('a')).toBe('SERVICE_UNREACHABLE');
    [nowMs, asleepMs] = [M, M - 1]; // the steady clock stood still meanwhile
    expect(await code('a')).toBe('SERVICE_UNREACHABLE');
  });

  it('counts the time from the question, not from the answer', async () => {
    answer = (token) => {
      nowMs += M;
      return { subject: token, grants };
    };
    expect(await code('a')).toBe('a');
    await code('a');
    expect(asked).toHaveLength(2);
  });

  it('is asked again when his token has ended', async () => {
    answer = (token) => ({ subject: token, grants, expiresAt: new Date(start + 1000).toISOString() });
    await code('a');
    nowMs = 999;
    await code('a');
    expect(asked).toHaveLength(1);
    nowMs = 1000;
    answer = () => {
      throw refused;
    };
    expect(await code('a')).toBe('UNAUTHENTICATED');
  });

  it('is refused for some seconds without a question when upstream refused him', async () => {
    answer = () => {
      throw refused;
    };
    expect([await code('a'), await code('a'), asked.length]).toEqual(['UNAUTHENTICATED', 'UNAUTHENTICATED', 1]);
    nowMs = 5000;
    answer = (token) => ({ subject: token, grants });
    expect(await code('a')).toBe('a');
  });

  it('cannot be pushed out by tokens that are made up', async () => {
    authenticator = open({ maxRefused: 3 });
    await code('a');
    answer = () => {
      throw refused;
    };
    for (let at = 0; at < 20; at += 1) await code(`made up ${at}`);
    asked = [];
    expect([await code('a'), asked]).toEqual(['token:a', []]);
  });

  it('waits behind a few unknown ones, and not behind many', async () => {
    authenticator = open({ maxLookups: 2, maxWaiting: 3 });
    let letGo = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    answer = async (token) => {
      await gate;
      return { subject: token, grants };
    };
    const codes = ['a', 'b', 'c', 'd', 'e', 'f'].map(code);
    expect(await codes[5]).toBe('OVERLOADED');
    expect(asked).toEqual(['a', 'b']);
    letGo();
    expect(await Promise.all(codes)).toEqual(['a', 'b', 'c', 'd', 'e', 'OVERLOADED']);
  });

  it('must be somebody, and stated as API v3 does', async () => {
    answer = () => ({ subject: 'anonymous', grants: [{ namespaces: ['*'], rights: ['read'] }] });
    expect(await code('a')).toBe('UNAUTHENTICATED');
    for (const wrong of [
      undefined,
      {},
      { subject: 'x' },
      { subject: 'x', grants: [{ namespaces: '*', rights: [] }] },
    ]) {
      answer = () => wrong;
      expect(await code('b')).toBe('SERVICE_UNREACHABLE');
    }
  });
});
