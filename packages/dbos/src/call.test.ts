import { describe, expect, it, vi } from 'vitest';
import { callWithin } from './call.js';
import type { CallContext } from './callbacks.js';

const call = { name: 'put', timeoutMs: 60_000, uploadID: 'upload' };

describe('a call of a callback', () => {
  it('returns what it returns and throws what it throws, at once or later', async () => {
    await expect(callWithin(call, async () => 'value')).resolves.toBe('value');
    await expect(callWithin(call, () => Promise.reject(new Error('own')))).rejects.toThrow('own');
    const thrower = (): Promise<never> => {
      throw new Error('at once');
    };
    await expect(callWithin(call, thrower)).rejects.toThrow('at once');
  });

  it('gets the id of its upload and a signal', async () => {
    const seen = await callWithin(call, async (context) => context);
    expect(seen.uploadID).toBe('upload');
    expect(seen.signal.aborted).toBe(false);
    expect(await callWithin({ ...call, uploadID: undefined }, async (context) => 'uploadID' in context)).toBe(false);
  });

  it('is given up after its time, told so, and heard of again when it ends', async () => {
    for (const ending of ['resolves', 'rejects'] as const) {
      let seen: CallContext | undefined;
      let end = (): void => undefined;
      const endedLate = vi.fn();
      const running = callWithin({ ...call, timeoutMs: 1, endedLate }, (context) => {
        seen = context;
        return new Promise<void>((resolve, reject) => {
          end = () => (ending === 'resolves' ? resolve() : reject(new Error('late')));
        });
      });
      await expect(running).rejects.toMatchObject({ code: 'TIMED_OUT', message: 'put did not return within 1 ms' });
      expect(seen?.signal.aborted).toBe(true);
      expect(endedLate).not.toHaveBeenCalled();
      end();
      await vi.waitFor(() => expect(endedLate).toHaveBeenCalledOnce(), 30_000);
    }
  });

  it('is not heard of again when it was in time', async () => {
    const endedLate = vi.fn();
    await callWithin({ ...call, endedLate }, async () => undefined);
    await callWithin({ ...call, endedLate }, () => Promise.reject(new Error('own'))).catch(() => undefined);
    expect(endedLate).not.toHaveBeenCalled();
  });
});
