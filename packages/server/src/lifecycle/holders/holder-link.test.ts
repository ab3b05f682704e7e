import { expect, it } from 'vitest';
import { holderLink } from './holder-link.js';

it('leads to a run or a schedule, whatever stands in its id', () => {
  const link = (kind: 'run' | 'schedule', externalId: string): string =>
    holderLink('https://ui.example.com/temporal', 'my orders', { kind, externalId });
  expect(link('run', 'order/7?\nrun-1')).toBe(
    'https://ui.example.com/temporal/namespaces/my%20orders/workflows/order%2F7%3F/run-1',
  );
  expect(link('schedule', 'each day')).toBe(
    'https://ui.example.com/temporal/namespaces/my%20orders/schedules/each%20day',
  );
});
