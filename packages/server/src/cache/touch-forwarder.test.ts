import { LpsError } from '@large-payload/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { TouchForwarder } from './touch-forwarder.js';

describe('uses that a cache node tells of', () => {
  let nowMs: number;
  let sent: { key: string; agoMs: number }[][];
  let answer: () => unknown;
  let forwarder: TouchForwarder;
  beforeEach(() => {
    nowMs = 0;
    sent = [];
    answer = () => ({ known: 1 });
    forwarder = new TouchForwarder({
      api: {
        async json(method, path, call) {
          expect([method, path]).toEqual(['POST', '/v3/touches']);
          sent.push((call as { body: { touches: { key: string; agoMs: number }[] } }).body.touches);
          return answer();
        },
      },
      maxWaiting: 2500,
      clock: () => ({ steadyMs: nowMs, wallMs: nowMs }),
    });
  });
  afterEach(() => forwarder.close());

  it('are told once for a key, with how long ago the last one was', async () => {
    forwarder.add('/a');
    nowMs = 100;
    forwarder.add('/b');
    forwarder.add('/a');
    nowMs = 400;
    await forwarder.flush();
    expect(sent).toEqual([
      [
        { key: '/a', agoMs: 300 },
        { key: '/b', agoMs: 300 },
      ],
    ]);
    await forwarder.flush();
    expect([sent.length, forwarder.state()]).toEqual([1, { waiting: 0, forwarded: 2 }]);
  });

  it('wait on while upstream is away, and not when upstream does not take them', async () => {
    forwarder.add('/a');
    answer = () => {
      throw new LpsError('SERVICE_UNREACHABLE', 'away');
    };
    await forwarder.flush();
    expect(forwarder.state()).toEqual({ waiting: 1, forwarded: 0 });
    answer = () => {
      throw new LpsError('INVALID_KEY', 'no');
    };
    await forwarder.flush();
    expect(forwarder.state()).toEqual({ waiting: 0, forwarded: 0 });
  });

  it('wait on when the blob was read again while they were told', async () => {
    forwarder.add('/a');
    answer = () => {
      nowMs += 1;
      forwarder.add('/a');
    };
    await forwarder.flush();
    expect(forwarder.state().waiting).toBe(1);
    answer = () => undefined;
  });

  it('are bounded, and told a thousand at a time; the rest at the end', async () => {
    for (let at = 0; at < 3000; at += 1) forwarder.add(`/${at}`);
    expect([forwarder.hasRoom('/new'), forwarder.hasRoom('/7'), forwarder.state().waiting]).toEqual([
      false,
      true,
      2500,
    ]);
    await forwarder.close();
    expect(sent.map(({ length }) => length)).toEqual([1000, 1000, 500]);
  });
});
