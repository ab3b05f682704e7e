/**
 * One look of an acceptance, in one transaction: what is meant at this moment is taken down.
 *
 *   lock the takedown ─ rows for objects without one ─ who is meant ─ lock them, by id ─ names ─ taken_down ─ blocks ─ events
 */
import { type Digest, LpsError, parseKey } from '@large-payload/core';
import { keyColumns, suffixOf } from '../catalog/blob-record.js';
import type { Database, Row } from '../catalog/database.js';
import { appendEvents } from '../nodes/read-leases.js';
import type { TakedownRequest } from './takedown-catalog.js';
import { type Condition, meant, ofDigests, takedownStatements } from './takedown-sql.js';

/** More of them are to be taken down in parts: an acceptance is one transaction, and a receipt names each. */
export const maxBlobs = 100_000;

type Run = Database['run'];

export class Acceptance {
  readonly #sql: ReturnType<typeof takedownStatements>;

  constructor(
    readonly run: Run,
    readonly schema: string,
    readonly takedown: Pick<TakedownRequest, 'id' | 'selector' | 'withSameDigest' | 'isBlocking'>,
  ) {
    this.#sql = takedownStatements(schema);
  }

  async look(): Promise<{ event: bigint; added: number }> {
    const { run, takedown } = this;
    const [locked] = await run(this.#sql.lock, [takedown.id]);
    const isFirst = locked?.state === 'planning';
    if (!isFirst && locked?.state !== 'accepting') return { event: BigInt(String(locked?.event ?? 0)), added: 0 };
    const ofObjects = await this.#rowsOfObjects();
    // what is not blocked and came since the first look is new data
    const before = isFirst || takedown.isBlocking ? null : (locked?.looked_at as Date);
    const held = takedown.selector.workflowId === undefined ? undefined : await this.#digestsHeld();
    const where = meant(takedown.selector, held);
    // a later look refuses nothing: it is too late for that
    const limit = isFirst ? maxBlobs : 10 * maxBlobs;
    const ids = await this.#meantIds(where, before, ofObjects.keys, limit);
    await run(this.#sql.lockRows, [[...new Set([...ids, ...ofObjects.ids])]]);
    // each of these is a statement of its own: it sees what was committed before the locks were there
    await run(this.#sql.nameRows, [takedown.id, ofObjects.ids]);
    const added = await run(this.#sql.addNames, [takedown.id, ids]);
    if (isFirst) await this.#requireFew();
    await run(this.#sql.takeDown, [takedown.id, ids]);
    if (takedown.isBlocking) await this.#block(where, held ?? [], ofObjects.ids);
    const told = isFirst ? await run(this.#sql.namesOf, [takedown.id]) : added;
    const event = await appendEvents(run, this.schema, 'takedown', told.map(toNodeEvent));
    await run(this.#sql.setLooked, [takedown.id, event]);
    return { event, added: told.length };
  }

  /** Objects without a row get one, so that nobody takes them in; some may have one by now. */
  async #rowsOfObjects(): Promise<{ ids: string[]; keys: string[] }> {
    const found = await this.run(this.#sql.objectsWithoutRow, [this.takedown.id]);
    if (found.length === 0) return { ids: [], keys: [] };
    const byKey = new Map(found.map((row) => [String(row.key), row]));
    const columns = [...byKey].map(([key, row]) => [
      ...keyColumns(parseKey(key)),
      row.size,
      suffixOf(key, String(row.physical_key)),
    ]);
    await this.run(this.#sql.addRows, transposed(columns, 6));
    const rows = await this.run(this.#sql.rowsOf, transposed(columns, 4));
    return { ids: rows.map(({ id }) => String(id)), keys: [...byKey.keys()] };
  }

  async #meantIds(
    where: Condition,
    before: Date | null,
    objectKeys: readonly string[],
    limit: number,
  ): Promise<string[]> {
    const { selector, withSameDigest } = this.takedown;
    const ids = await this.#idsOf(where, before, limit);
    if (!withSameDigest) return ids;
    const rows = await this.run(this.#sql.digestsOfRows, [ids]);
    const ofObjects = objectKeys.map((key) => bytesOf(parseKey(key).digest));
    const digests = [...rows.map(({ digest }) => digest as Buffer), ...ofObjects];
    const copies = await this.#idsOf(ofDigests(selector.namespace, digests), before, limit);
    return [...new Set([...ids, ...copies])];
  }

  async #idsOf(where: Condition, before: Date | null, limit: number): Promise<string[]> {
    const found = await this.run(this.#sql.ids(where), [...where.values, before, limit + 1]);
    if (found.length > limit) throw tooMany();
    return found.map(({ id }) => String(id));
  }

  async #digestsHeld(): Promise<Buffer[]> {
    return (await this.run(this.#sql.digests, [this.takedown.id])).map(({ digest }) => digest as Buffer);
  }

  async #requireFew(): Promise<void> {
    const [row] = await this.run(this.#sql.countNames, [this.takedown.id]);
    if (Number(row?.names) > maxBlobs) throw tooMany();
  }

  /** Under any prefix where the selector names none. */
  async #block(where: Condition, held: readonly Buffer[], ofObjects: readonly string[]): Promise<void> {
    const { id, selector, withSameDigest } = this.takedown;
    const { namespace, key, digest, prefix, workflowId, uploadedFrom, uploadedUntil } = selector;
    const isOfBytes = (digest !== undefined || workflowId !== undefined) && key === undefined && prefix === undefined;
    const isAny = withSameDigest || isOfBytes;
    await this.run(this.#sql.blockMeant(where), [...where.values, id, isAny]);
    await this.run(this.#sql.blockRows, [id, ofObjects, isAny]);
    // bytes that are named are blocked whether they are there or not
    if (uploadedFrom !== undefined || uploadedUntil !== undefined) return;
    const [, ofKey, digestOfKey] = key === undefined ? [] : keyColumns(parseKey(key));
    const named = digestOfKey ?? (digest === undefined ? undefined : bytesOf(digest));
    const digests = named === undefined ? held : [named];
    await this.run(this.#sql.blockDigests, [id, namespace, digests, isAny, isAny ? '' : (ofKey ?? prefix ?? '')]);
  }
}

/** More than one takedown can do. */
export function tooMany(): LpsError {
  return new LpsError(
    'INVALID_ARGUMENT',
    `this means more than ${maxBlobs} blobs: take them down in parts, by a longer prefix or by uploadedFrom and uploadedUntil`,
  );
}

function toNodeEvent({ physical_key, key }: Row): { key: string; physicalKey: string } {
  return { key: String(key), physicalKey: String(physical_key) };
}

/** As the column has it. */
export function bytesOf(digest: Digest): Buffer {
  return Buffer.from(digest.slice('sha256:'.length), 'hex');
}

/** Rows as arrays of their columns, for `unnest`. */
export function transposed(rows: readonly (readonly unknown[])[], width: number): unknown[][] {
  return Array.from({ length: width }, (_, column) => rows.map((row) => row[column]));
}
