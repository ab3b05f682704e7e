import { createHash, randomBytes } from 'node:crypto';
import { newGeneration } from '@large-payload/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { exportCatalog } from './export.js';
import { importCatalog } from './import.js';
import { type CatalogFixture, newKey, openFixture } from './postgres-catalog-fixture.js';

let postgres: EmbeddedPostgres;
let from: CatalogFixture;
let to: CatalogFixture;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
});
afterAll(() => postgres?.stop());
beforeEach(async () => {
  [from, to] = [openFixture(postgres.url), openFixture(postgres.url)];
  for (const fixture of [from, to]) await fixture.open({ cacheEntries: 0 });
});
afterEach(async () => {
  for (const fixture of [from, to]) await fixture.close();
});

const { signal } = new AbortController();
const states = ['uploading', 'live', 'quarantined', 'deleting', 'gone', 'damaged', 'taken_down'] as const;

async function exported(
  fixture: CatalogFixture,
  onPart: (at: number) => Promise<void> = async () => {},
): Promise<string> {
  const texts: string[] = [];
  for await (const { text } of exportCatalog({ url: fixture.url, schema: fixture.schema, signal })) {
    texts.push(text);
    await onPart(texts.length);
  }
  return texts.join('');
}

/** In pieces that cut lines, and characters, anywhere. */
async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function imported(fixture: CatalogFixture, text: string | Buffer, size = 1013): ReturnType<typeof importCatalog> {
  const input = pieces(Buffer.from(text), size);
  return importCatalog({ url: fixture.url, schema: fixture.schema, input, signal, check: async () => {} });
}

async function table(fixture: CatalogFixture, name: string): Promise<Record<string, unknown>[]> {
  return (await fixture.sql.query(`SELECT * FROM ${fixture.schema}.${name} ORDER BY 1, 2`)).rows;
}

/** To the microsecond, which a Date would cut off. */
async function times(fixture: CatalogFixture): Promise<Record<string, unknown>[]> {
  const columns = ['created_at', 'touched_at', 'quarantined_at', 'damaged_at'].map((name) => `${name}::text`);
  return (await fixture.sql.query(`SELECT ${columns.join(', ')} FROM ${fixture.schema}.blob ORDER BY id`)).rows;
}

async function fill(fixture: CatalogFixture, count: number): Promise<void> {
  await fixture.sql.query(
    `INSERT INTO ${fixture.schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
     SELECT 'orders', '', sha256(n::text::bytea), sha256(''::bytea), n, 'live', 1, '' FROM generate_series(1, $1::int) n`,
    [count],
  );
}

async function fillWithEverything(fixture: CatalogFixture): Promise<void> {
  for (const state of states) {
    await fixture.force(newKey('orders'), state);
    await fixture.force(newKey('orders', '//odd//Prefix_'), state, { generation: 3, suffix: newGeneration() });
  }
  for (const namespace of ['größe 漢字 🎉', 'a\u2028b\u2029c', '"quoted" {json}', 'x+%2F y', '<é>', 'null']) {
    await fixture.force(newKey(namespace), 'live');
  }
  await fixture.sql.query(
    `INSERT INTO ${fixture.schema}.retired_object (blob_id, generation, physical_key, size)
     SELECT id, generation, '/blobs/' || namespace, 9007199254740991 FROM ${fixture.schema}.blob WHERE state = 'deleting'`,
  );
  await fillWithTakedowns(fixture);
  // a hole in the ids
  await fixture.sql.query(`DELETE FROM ${fixture.schema}.blob WHERE id = 3`);
}

async function fillWithTakedowns({ sql, schema }: CatalogFixture): Promise<void> {
  for (const [state, receipt] of [
    ['planning', null],
    ['accepted', null],
    ['completed', `{"receipt": "${'x'.repeat(200_000)}"}`],
  ]) {
    await sql.query(
      `WITH asked AS (
         INSERT INTO ${schema}.takedown (id, namespace, selector, with_same_digest, is_blocking, reason, requested_by, state,
           accepted_at, looked_at, event, xact, problem, receipt)
         VALUES (gen_random_uuid(), 'größe', '{"prefix": "a/\u2028"}', true, true, 'line\nbreak', 'ann', $1,
           now(), now(), 7, pg_current_xact_id(), 'waits', $2) RETURNING id
       ), named AS (
         INSERT INTO ${schema}.takedown_blob (takedown_id, physical_key, key, blob_id, size, objects, erased_at)
         SELECT id, 'n~x', 'n', 5, 42, 2, CASE $1 WHEN 'completed' THEN now() END FROM asked
       ), blocked AS (
         INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
         SELECT 'größe', sha256($1::bytea), $1 = 'accepted', CASE $1 WHEN 'accepted' THEN '' ELSE 'p//' END, id
         FROM asked WHERE $1 <> 'planning'
       )
       INSERT INTO ${schema}.takedown_digest (takedown_id, digest) SELECT id, sha256('x') FROM asked WHERE $1 = 'accepted'`,
      [state, receipt],
    );
  }
}

describe('an export, read into an empty catalog', () => {
  it('has every row of every state as it was, and the id of the catalog', async () => {
    await fillWithEverything(from);
    const counts = await imported(to, await exported(from), 7);
    expect(counts).toEqual({
      ...{ blob: 19, retired_object: 2, takedown: 3, takedown_blob: 3, takedown_digest: 1, block: 2 },
    });
    for (const name of ['blob', 'retired_object', 'takedown_blob', 'takedown_digest', 'block'])
      expect(await table(to, name)).toEqual(await table(from, name));
    // what a database and its nodes had counted means nothing in another one
    const withoutNumbers = (await table(from, 'takedown')).map((row) => ({ ...row, event: null, xact: null }));
    expect(await table(to, 'takedown')).toEqual(withoutNumbers);
    expect(await times(to)).toEqual(await times(from));
    const [[old], [now]] = [await table(from, 'catalog'), await table(to, 'catalog')];
    expect(now).toEqual({ ...old, rebuilt_at: expect.any(Date) });
    expect(await imported(openFixtureAgain(), await exported(to))).toEqual(counts);
  });

  let third: CatalogFixture | undefined;
  function openFixtureAgain(): CatalogFixture {
    third = openFixture(postgres.url);
    return third;
  }
  afterEach(async () => {
    await third?.close();
    third = undefined;
  });

  it('goes on with new ids behind the old ones', async () => {
    await fill(from, 5);
    await from.sql.query(
      `INSERT INTO ${from.schema}.retired_object (blob_id, generation, physical_key, size) VALUES (80, 1, 'x', 1)`,
    );
    await imported(to, await exported(from));
    await to.force(newKey(), 'live');
    expect((await table(to, 'blob')).at(-1)?.id).toBe('81');
  });

  it('may be of the version before takedowns', async () => {
    await fill(from, 2);
    const [header = '', ...lines] = (await exported(from))
      .replace('"version" : 2', '"version" : 1')
      .trimEnd()
      .split('\n');
    const rows = `${[header, ...lines.slice(0, -1)].join('\n')}\n`;
    const sha256 = createHash('sha256').update(rows).digest('hex');
    const text = `${rows}${JSON.stringify({ end: { blob: 2, retired_object: 0 }, sha256 })}\n`;
    expect(await imported(to, text)).toMatchObject({ blob: 2, takedown: 0 });
  });

  it('numbers events behind all that the lost catalog gave out since', async () => {
    await imported(to, await exported(from));
    const [counter] = await table(to, 'event_counter');
    expect(Number(counter?.last)).toBeGreaterThan(1.7e12);
    expect(counter?.forgotten).toBe(counter?.last);
  });

  it('lets the service find out what became of uploads', async () => {
    const [stored, broken] = [newKey(), newKey()];
    for (const key of [stored, broken]) await from.force(key, 'uploading');
    await imported(to, await exported(from));
    const catalog = await to.open({ cacheEntries: 0 });
    const sizeOf = async (key: string): Promise<number | undefined> => (key.includes(stored.digest) ? 10 : undefined);
    expect(await catalog.sweepLeases(sizeOf, 10)).toBe(2);
    expect(await to.read(stored)).toMatchObject({ state: 'live', leases: 0 });
    expect(await to.read(broken)).toBeUndefined();
  });

  it('is one moment of the catalog, whatever is written meanwhile', async () => {
    await fill(from, 3500);
    const retire = (id: number): Promise<unknown> =>
      from.sql.query(
        `INSERT INTO ${from.schema}.retired_object (blob_id, generation, physical_key, size) VALUES ($1, 1, 'x', 1)`,
        [id],
      );
    await retire(1);
    const before = [await table(from, 'blob'), await table(from, 'retired_object')];
    const text = await exported(from, async (part) => {
      if (part !== 2) return;
      await from.sql.query(`UPDATE ${from.schema}.blob SET size = 0`);
      await from.sql.query(`DELETE FROM ${from.schema}.blob WHERE id > 3000`);
      await from.force(newKey(), 'live');
      await retire(2);
    });
    expect(await imported(to, text)).toMatchObject({ blob: 3500, retired_object: 1, takedown: 0 });
    expect([await table(to, 'blob'), await table(to, 'retired_object')]).toEqual(before);
  });

  it('works for an empty catalog', async () => {
    expect(await imported(to, await exported(from))).toMatchObject({ blob: 0, retired_object: 0, block: 0 });
    await to.force(newKey(), 'live');
    expect(await table(to, 'blob')).toHaveLength(1);
  });
});

describe('nothing is imported', () => {
  async function expectRefused(text: string | Buffer, message: RegExp): Promise<void> {
    const before = [await table(to, 'blob'), await table(to, 'catalog'), await table(to, 'lease')];
    await expect(imported(to, text)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(message),
    });
    expect([await table(to, 'blob'), await table(to, 'catalog'), await table(to, 'lease')]).toEqual(before);
  }

  it('of a file that was cut off, wherever that was', async () => {
    await fill(from, 3);
    const whole = Buffer.from(await exported(from));
    for (let length = 1; length < whole.length; length += 37) {
      await expectRefused(whole.subarray(0, length), /the rest is missing/);
    }
    await expectRefused(whole.subarray(0, -1), /the rest is missing/);
    const lines = whole.toString().split(/(?<=\n)/);
    for (let count = 1; count < lines.length; count += 1) {
      await expectRefused(lines.slice(0, count).join(''), /the rest is missing/);
    }
    await expectRefused('', /the rest is missing/);
  });

  it('of a file in which something was changed, taken out or added', async () => {
    await fill(from, 2000);
    const text = await exported(from);
    const lines = text.split('\n');
    await expectRefused(text.replace('"size" : 1999', '"size" : 1998'), /changed/);
    await expectRefused(lines.toSpliced(1500, 1).join('\n'), /lines are missing/);
    await expectRefused(`${text}\n`, /behind the last line/);
    await expectRefused(`${text}x`, /behind the last line/);
    await expectRefused(lines.toSpliced(9, 0, lines[8] ?? '').join('\n'), /lines are missing|cannot stand together/);
  });

  it.each([
    ['another kind of file', randomBytes(3000), /not/],
    ['another kind of JSON', '{"a":1}\n', /not the export of a catalog/],
    ['a longer line than there can be', 'x'.repeat(100_000), /not the export of a catalog/],
  ])('of %s', async (_title, content, message) => {
    await expectRefused(content, message);
  });

  it('of an export that a newer program made, or with a table that this one does not know', async () => {
    const text = await exported(from);
    await expectRefused(text.replace('"version" : 2', '"version" : 3'), /a newer program/);
    const [header, end] = text.split('\n');
    await expectRefused(`${header}\n{"table":"pin","id":"1"}\n${end}\n`, /line 2 .* not a line of this format/);
  });

  it('of rows whose names are none', async () => {
    await fill(from, 1);
    const text = await exported(from);
    for (const namespace of ['..', 'a/b', '', 'a\\u0000b']) {
      await expectRefused(text.replace('"orders"', `"${namespace}"`), /namespace or prefix/);
    }
  });

  it('into a catalog that is in use, if only by an upload', async () => {
    await fill(from, 1);
    const text = await exported(from);
    await to.force(newKey(), 'live');
    await expect(imported(to, text)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await to.sql.query(`DELETE FROM ${to.schema}.blob`);
    await to.sql.query(
      `INSERT INTO ${to.schema}.lease (blob_id, generation, size, expires_at) VALUES (1, 1, 1, now())`,
    );
    await expect(imported(to, text)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await table(to, 'blob')).toEqual([]);
  });

  it('when the caller finds that it is the wrong catalog', async () => {
    const input = pieces(Buffer.from(await exported(from)), 100);
    const check = async (): Promise<void> => {
      throw new Error('the wrong one');
    };
    await expect(importCatalog({ url: to.url, schema: to.schema, input, signal, check })).rejects.toThrow();
    expect((await table(to, 'catalog'))[0]?.rebuilt_at).toBeNull();
  });
});
