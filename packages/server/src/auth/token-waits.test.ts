import { stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { within } from './token-waits.js';

it('an answer in time is the answer, a failure the failure, and silence is CATALOG_UNAVAILABLE', async () => {
  expect(await within(10_000, delay(1, 'answer'))).toBe('answer');
  await expect(within(10_000, Promise.reject(new Error('no')))).rejects.toThrow('no');
  await expect(within(10, new Promise(() => {}))).rejects.toMatchObject({ code: 'CATALOG_UNAVAILABLE' });
});

it('an answer that came while the process was held up is in time', async () => {
  const answered = within(20, stat('.'));
  for (const since = performance.now(); performance.now() - since < 200; );
  expect((await answered).isDirectory()).toBe(true);
});
