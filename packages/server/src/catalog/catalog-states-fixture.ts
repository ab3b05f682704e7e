/** For tests: what each call does to each state, as one table; on every catalog there is. */
import { type BlobKey, isLpsError } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { logicalKey } from './blob-record.js';
import type { BlobState, Catalog, Lease } from './catalog.js';
import { beginUpload, type CatalogFixture, newKey } from './postgres-catalog-fixture.js';

export type StatesSite = Pick<CatalogFixture, 'force' | 'age' | 'block' | 'erase' | 'expireLeases' | 'removeLeases'> & {
  read(key: BlobKey): Promise<{ state: BlobState; generation: number; touchedAt: Date } | undefined>;
};

const dayMs = 86_400_000;
let fixture: StatesSite;
let catalog: Catalog;

/** The state before, as the table below names it: the row is of generation 1, except in `newer …`, where it is of 2. */
type Before =
  | (BlobState | 'absent' | 'due' | 'newer uploading' | 'newer live' | 'newer deleting')
  /** It must not be stored again, under its prefix, or under any. */
  | `blocked ${BlobState | 'absent' | 'due'}`
  /** A takedown erases the object at the key. */
  | `erased ${'absent' | 'taken_down' | 'newer uploading'}`;

/** What a call answers, and behind the arrow what the row is then: state and generation, `*` when just touched. */
type Calls = Record<
  | 'begin'
  | 'commit'
  | 'heal'
  | 'abandon'
  | 'renew'
  | 'lookup'
  | 'touch'
  | 'adopt'
  | 'mayTakeIn'
  | 'markDamaged'
  | 'sweepPresent'
  | 'sweepAbsent',
  (key: BlobKey, held: Lease) => Promise<string>
>;

const calls: Calls = {
  async begin(key) {
    const beginning = await catalog.begin(key, 10);
    if (beginning.kind === 'present') return `present${beginning.touched ? ', touched' : ''}`;
    const { physicalKey, overwrite, generation } = beginning.lease;
    const where = physicalKey === logicalKey(key) ? 'at the key' : 'elsewhere';
    return `upload ${generation} ${where}${overwrite ? ', overwrite' : ''}`;
  },
  commit: async (_key, held) => (await catalog.commit(held, 10))?.outcome ?? 'refused',
  heal: async (_key, held) => (await catalog.commit({ ...held, overwrite: true }, 10))?.outcome ?? 'refused',
  async abandon(_key, held) {
    await catalog.abandon(held);
    return 'done';
  },
  renew: async (_key, held) => String(await catalog.renew(held)),
  async lookup(key) {
    const row = await catalog.lookup(key);
    return row === undefined ? 'nothing' : `found${row.touchDue ? ', due' : ''}`;
  },
  async touch(key) {
    const row = await catalog.lookup(key);
    if (row === undefined) return 'nothing';
    const [touched] = await catalog.touch([row]);
    return touched?.state ?? 'nothing';
  },
  adopt: async (key) => (await catalog.adopt(key, logicalKey(key), 10))?.state ?? 'refused',
  async mayTakeIn(key) {
    await catalog.mayTakeIn(key, logicalKey(key));
    return 'yes';
  },
  async markDamaged(key) {
    const row = await catalog.lookup(key);
    if (row !== undefined) await catalog.markDamaged(row);
    return 'done';
  },
  async sweepPresent() {
    await fixture.expireLeases();
    return `ended ${await catalog.sweepLeases(async () => 10, 10)}`;
  },
  async sweepAbsent() {
    await fixture.expireLeases();
    return `ended ${await catalog.sweepLeases(async () => undefined, 10)}`;
  },
};

/** Every state × every call. `commit`, `heal`, `abandon`, `renew` and the sweeps: of a lease on generation 1. */
const table: Record<Before, Record<keyof Calls, string>> = {
  absent: {
    begin: 'upload 1 at the key → uploading 1 *',
    commit: 'created → live 1 *',
    heal: 'created → live 1 *',
    abandon: 'done → absent',
    renew: 'true → absent',
    lookup: 'nothing → absent',
    touch: 'nothing → absent',
    adopt: 'live → live 1 *',
    mayTakeIn: 'yes → absent',
    markDamaged: 'done → absent',
    sweepPresent: 'ended 1 → absent',
    sweepAbsent: 'ended 1 → absent',
  },
  uploading: {
    begin: 'upload 1 at the key → uploading 1 *',
    commit: 'created → live 1 *',
    heal: 'created → live 1 *',
    abandon: 'done → absent',
    renew: 'true → uploading 1',
    lookup: 'found, due → uploading 1',
    touch: 'uploading → uploading 1',
    adopt: 'live → live 1 *',
    mayTakeIn: 'yes → uploading 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1 *',
    sweepAbsent: 'ended 1 → absent',
  },
  live: {
    begin: 'present → live 1',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found → live 1',
    touch: 'live → live 1',
    adopt: 'live → live 1',
    mayTakeIn: 'yes → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  due: {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found, due → live 1',
    touch: 'live → live 1 *',
    adopt: 'live → live 1',
    mayTakeIn: 'yes → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  quarantined: {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → quarantined 1',
    renew: 'true → quarantined 1',
    lookup: 'found, due → quarantined 1',
    touch: 'live → live 1 *',
    adopt: 'quarantined → quarantined 1',
    mayTakeIn: 'yes → quarantined 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → quarantined 1',
    sweepAbsent: 'ended 1 → quarantined 1',
  },
  deleting: {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → deleting 1',
    heal: 'refused → deleting 1',
    abandon: 'done → deleting 1',
    renew: 'true → deleting 1',
    lookup: 'found, due → deleting 1',
    touch: 'deleting → deleting 1',
    adopt: 'refused → deleting 1',
    mayTakeIn: 'yes → deleting 1',
    markDamaged: 'done → deleting 1',
    sweepPresent: 'ended 1 → deleting 1',
    sweepAbsent: 'ended 1 → deleting 1',
  },
  gone: {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → gone 1',
    heal: 'refused → gone 1',
    abandon: 'done → gone 1',
    renew: 'true → gone 1',
    lookup: 'found, due → gone 1',
    touch: 'gone → gone 1',
    adopt: 'refused → gone 1',
    mayTakeIn: 'yes → gone 1',
    markDamaged: 'done → gone 1',
    sweepPresent: 'ended 1 → gone 1',
    sweepAbsent: 'ended 1 → gone 1',
  },
  damaged: {
    begin: 'upload 1 at the key, overwrite → damaged 1',
    commit: 'refused → damaged 1',
    heal: 'created → live 2 *',
    abandon: 'done → damaged 1',
    renew: 'true → damaged 1',
    lookup: 'found, due → damaged 1',
    touch: 'damaged → damaged 1',
    adopt: 'live → live 2 *',
    mayTakeIn: 'yes → damaged 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → damaged 1',
    sweepAbsent: 'ended 1 → damaged 1',
  },
  taken_down: {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → taken_down 1',
    heal: 'refused → taken_down 1',
    abandon: 'done → taken_down 1',
    renew: 'false → taken_down 1',
    lookup: 'found, due → taken_down 1',
    touch: 'taken_down → taken_down 1',
    adopt: 'refused → taken_down 1',
    mayTakeIn: 'yes → taken_down 1',
    markDamaged: 'done → taken_down 1',
    sweepPresent: 'ended 1 → taken_down 1',
    sweepAbsent: 'ended 1 → taken_down 1',
  },
  'newer uploading': {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → uploading 2',
    heal: 'refused → uploading 2',
    abandon: 'done → uploading 2',
    renew: 'true → uploading 2',
    lookup: 'found, due → uploading 2',
    touch: 'uploading → uploading 2',
    adopt: 'refused → uploading 2',
    mayTakeIn: 'yes → uploading 2',
    markDamaged: 'done → damaged 2',
    sweepPresent: 'ended 1 → uploading 2',
    sweepAbsent: 'ended 1 → uploading 2',
  },
  'newer live': {
    begin: 'present, touched → live 2 *',
    commit: 'exists → live 2 *',
    heal: 'exists → live 2 *',
    abandon: 'done → live 2',
    renew: 'true → live 2',
    lookup: 'found, due → live 2',
    touch: 'live → live 2 *',
    adopt: 'live → live 2',
    mayTakeIn: 'yes → live 2',
    markDamaged: 'done → damaged 2',
    sweepPresent: 'ended 1 → live 2',
    sweepAbsent: 'ended 1 → live 2',
  },
  'newer deleting': {
    begin: 'upload 3 elsewhere → uploading 3 *',
    commit: 'refused → deleting 2',
    heal: 'refused → deleting 2',
    abandon: 'done → deleting 2',
    renew: 'true → deleting 2',
    lookup: 'found, due → deleting 2',
    touch: 'deleting → deleting 2',
    adopt: 'refused → deleting 2',
    mayTakeIn: 'yes → deleting 2',
    markDamaged: 'done → deleting 2',
    sweepPresent: 'ended 1 → deleting 2',
    sweepAbsent: 'ended 1 → deleting 2',
  },
  'blocked absent': {
    begin: 'BLOB_BLOCKED → absent',
    commit: 'BLOB_BLOCKED → absent',
    heal: 'BLOB_BLOCKED → absent',
    abandon: 'done → absent',
    renew: 'true → absent',
    lookup: 'nothing → absent',
    touch: 'nothing → absent',
    adopt: 'BLOB_BLOCKED → absent',
    mayTakeIn: 'BLOB_BLOCKED → absent',
    markDamaged: 'done → absent',
    sweepPresent: 'ended 1 → absent',
    sweepAbsent: 'ended 1 → absent',
  },
  'blocked uploading': {
    begin: 'BLOB_BLOCKED → uploading 1',
    commit: 'BLOB_BLOCKED → absent',
    heal: 'BLOB_BLOCKED → absent',
    abandon: 'done → absent',
    renew: 'true → uploading 1',
    lookup: 'found, due → uploading 1',
    touch: 'uploading → uploading 1',
    adopt: 'BLOB_BLOCKED → uploading 1',
    mayTakeIn: 'BLOB_BLOCKED → uploading 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → absent',
    sweepAbsent: 'ended 1 → absent',
  },
  // it is there, and nothing would be stored
  'blocked live': {
    begin: 'present → live 1',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found → live 1',
    touch: 'live → live 1',
    adopt: 'live → live 1',
    mayTakeIn: 'BLOB_BLOCKED → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  'blocked due': {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found, due → live 1',
    touch: 'live → live 1 *',
    adopt: 'live → live 1',
    mayTakeIn: 'BLOB_BLOCKED → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  'blocked quarantined': {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → quarantined 1',
    renew: 'true → quarantined 1',
    lookup: 'found, due → quarantined 1',
    touch: 'live → live 1 *',
    adopt: 'quarantined → quarantined 1',
    mayTakeIn: 'BLOB_BLOCKED → quarantined 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → quarantined 1',
    sweepAbsent: 'ended 1 → quarantined 1',
  },
  'blocked deleting': {
    begin: 'BLOB_BLOCKED → deleting 1',
    commit: 'BLOB_BLOCKED → deleting 1',
    heal: 'BLOB_BLOCKED → deleting 1',
    abandon: 'done → deleting 1',
    renew: 'true → deleting 1',
    lookup: 'found, due → deleting 1',
    touch: 'deleting → deleting 1',
    adopt: 'BLOB_BLOCKED → deleting 1',
    mayTakeIn: 'BLOB_BLOCKED → deleting 1',
    markDamaged: 'done → deleting 1',
    sweepPresent: 'ended 1 → deleting 1',
    sweepAbsent: 'ended 1 → deleting 1',
  },
  'blocked gone': {
    begin: 'BLOB_BLOCKED → gone 1',
    commit: 'BLOB_BLOCKED → gone 1',
    heal: 'BLOB_BLOCKED → gone 1',
    abandon: 'done → gone 1',
    renew: 'true → gone 1',
    lookup: 'found, due → gone 1',
    touch: 'gone → gone 1',
    adopt: 'BLOB_BLOCKED → gone 1',
    mayTakeIn: 'BLOB_BLOCKED → gone 1',
    markDamaged: 'done → gone 1',
    sweepPresent: 'ended 1 → gone 1',
    sweepAbsent: 'ended 1 → gone 1',
  },
  'blocked damaged': {
    begin: 'BLOB_BLOCKED → damaged 1',
    commit: 'BLOB_BLOCKED → damaged 1',
    heal: 'BLOB_BLOCKED → damaged 1',
    abandon: 'done → damaged 1',
    renew: 'true → damaged 1',
    lookup: 'found, due → damaged 1',
    touch: 'damaged → damaged 1',
    adopt: 'BLOB_BLOCKED → damaged 1',
    mayTakeIn: 'BLOB_BLOCKED → damaged 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → damaged 1',
    sweepAbsent: 'ended 1 → damaged 1',
  },
  'blocked taken_down': {
    begin: 'BLOB_BLOCKED → taken_down 1',
    commit: 'BLOB_BLOCKED → taken_down 1',
    heal: 'BLOB_BLOCKED → taken_down 1',
    abandon: 'done → taken_down 1',
    renew: 'false → taken_down 1',
    lookup: 'found, due → taken_down 1',
    touch: 'taken_down → taken_down 1',
    adopt: 'BLOB_BLOCKED → taken_down 1',
    mayTakeIn: 'BLOB_BLOCKED → taken_down 1',
    markDamaged: 'done → taken_down 1',
    sweepPresent: 'ended 1 → taken_down 1',
    sweepAbsent: 'ended 1 → taken_down 1',
  },
  'erased absent': {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → absent',
    heal: 'refused → absent',
    abandon: 'done → absent',
    renew: 'false → absent',
    lookup: 'nothing → absent',
    touch: 'nothing → absent',
    adopt: 'refused → absent',
    mayTakeIn: 'BLOB_TAKEN_DOWN → absent',
    markDamaged: 'done → absent',
    sweepPresent: 'ended 1 → absent',
    sweepAbsent: 'ended 1 → absent',
  },
  'erased taken_down': {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → taken_down 1',
    heal: 'refused → taken_down 1',
    abandon: 'done → taken_down 1',
    renew: 'false → taken_down 1',
    lookup: 'found, due → taken_down 1',
    touch: 'taken_down → taken_down 1',
    adopt: 'refused → taken_down 1',
    mayTakeIn: 'BLOB_TAKEN_DOWN → taken_down 1',
    markDamaged: 'done → taken_down 1',
    sweepPresent: 'ended 1 → taken_down 1',
    sweepAbsent: 'ended 1 → taken_down 1',
  },
  'erased newer uploading': {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → uploading 2',
    heal: 'refused → uploading 2',
    abandon: 'done → uploading 2',
    renew: 'false → uploading 2',
    lookup: 'found, due → uploading 2',
    touch: 'uploading → uploading 2',
    adopt: 'refused → uploading 2',
    mayTakeIn: 'BLOB_TAKEN_DOWN → uploading 2',
    markDamaged: 'done → damaged 2',
    sweepPresent: 'ended 1 → uploading 2',
    sweepAbsent: 'ended 1 → uploading 2',
  },
};

async function bring(key: BlobKey, before: Before): Promise<void> {
  const newer = before.includes('newer ');
  const word = before.split(' ').at(-1) ?? '';
  const state = (word === 'due' ? 'live' : word) as BlobState | 'absent';
  await fixture.force(key, state, newer ? { generation: 2, suffix: 'k3v9x2m4q8w1z7b5' } : {});
  await fixture.age(key, word === 'live' && !newer ? 60_000 : dayMs);
  if (before.startsWith('blocked ')) await fixture.block(key, { anyPrefix: word !== 'absent' });
  if (before.startsWith('erased ')) await fixture.erase(key);
}

/** `open` is called in each test. */
export function testCatalogStates(name: string, open: () => { catalog: Catalog; fixture: StatesSite }): void {
  describe(`every state × every call: ${name}`, () => {
    for (const [before, expected] of Object.entries(table) as [Before, Record<keyof Calls, string>][]) {
      it(before, async () => {
        ({ catalog, fixture } = open());
        const seen: Record<string, string> = {};
        for (const [name, call] of Object.entries(calls)) {
          await fixture.removeLeases();
          const key = newKey('orders', before.startsWith('blocked ') ? 'team/reports' : undefined);
          const held = await beginUpload(catalog, key);
          await bring(key, before);
          const aged = await fixture.read(key);
          const answer = await call(key, held).catch((error: unknown) =>
            isLpsError(error) ? error.code : String(error),
          );
          const row = await fixture.read(key);
          const touched = row !== undefined && row.touchedAt.getTime() > (aged?.touchedAt.getTime() ?? 0) ? ' *' : '';
          seen[name] = `${answer} → ${row === undefined ? 'absent' : `${row.state} ${row.generation}`}${touched}`;
        }
        expect(seen).toEqual(expected);
      });
    }
  });
}
