/** What schedules on a real server hold: test/lifecycle-holders.test.ts. */
import { describe, expect, it } from 'vitest';
import { digestNamed, payload } from '../extract/extract-fixture.js';
import { openExtractor } from '../extract/extractor.js';
import type { DescribedSchedule, Page, TemporalNamespace } from '../temporal-api.js';
import { schedulesKind } from './schedules.js';

const kind = schedulesKind(openExtractor());
const arguments_ = { payloads: [payload('json/plain', JSON.stringify(digestNamed('argument')))] };

const showing = (described: DescribedSchedule | undefined): TemporalNamespace =>
  ({ describeSchedule: async () => described }) as unknown as TemporalNamespace;

const listing = (listSchedules: (next?: Uint8Array) => Promise<Page<string>>): TemporalNamespace =>
  ({ listSchedules }) as unknown as TemporalNamespace;

async function idsOf(namespace: TemporalNamespace): Promise<string[]> {
  const ids: string[] = [];
  for await (const page of kind.list(namespace)) ids.push(...page.map(({ id }) => id));
  return ids;
}

describe('schedules', () => {
  it('hold all that they say, whatever was read before', async () => {
    const schedule = { action: { startWorkflow: { input: arguments_ } } };
    const scan = await kind.scan(showing({ schedule, conflictToken: Buffer.from('1') }), 'daily', 'some cursor');
    expect(scan).toEqual({
      isClosed: false,
      edges: [{ digest: digestNamed('argument'), isMutable: true }],
      cursor: '{"v":1,"token":"MQ=="}',
      gaps: [],
    });
    expect(await kind.scan(showing(undefined), 'daily', undefined)).toBeUndefined();
  });

  it.each([{}, { schedule: {} }, { schedule: { action: {} } }])(
    'leave a gap with an action that is not known: %j',
    async (described) => {
      const scan = await kind.scan(showing(described), 'daily', undefined);
      expect(scan?.gaps).toEqual([expect.stringMatching(/^its action is of a kind that is not known here: use/)]);
    },
  );

  it('are listed to the end, and no page for ever', async () => {
    const pages: Page<string>[] = [
      { items: ['a'], next: Buffer.from('1') },
      { items: [], next: Buffer.from('2') },
      { items: ['b'] },
    ];
    expect(
      await idsOf(listing(async (next) => pages[Number(Buffer.from(next ?? []).toString())] ?? { items: [] })),
    ).toEqual(['a', 'b']);
    const circle = listing(async () => ({ items: ['a'], next: Buffer.from('1') }));
    await expect(idsOf(circle)).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
  });
});
