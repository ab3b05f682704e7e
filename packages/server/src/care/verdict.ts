/**
 * What is to be done about the objects of one key, given its row. Looks only; ./reconcile.ts acts.
 *
 *   row                      object at the row's name        objects of other generations
 *   none                     the newest right one is adopted; the others are strays
 *   live, quarantined        there, right size: known        stray, unless about to be deleted
 *                            other size: hashed: corrected, or damaged
 *                            gone: the newest right one of the others takes its place, else damaged
 *   damaged                  hashed: healed, or the same with the others, or damaged as before
 *   uploading                left alone: its lease says what becomes of it
 *   deleting, gone,          left alone: retired, or a stray
 *   taken_down
 *
 * Before all that: an object that a takedown erases is deleted, and counts for nothing. A row that still means one follows
 * to a later generation, or is taken down; one that was taken down follows to what was written since, which an old backup of
 * the catalog does not know. What is blocked, and not there by its row, is a stray.
 *
 * Of several right generations a later one wins over the first, and then the one written last: a later generation is
 * begun only when the earlier one was to be deleted, so a deletion may still be on its way to the earlier one, and none
 * to the later.
 */
import type { BlobInfo, BlobKey } from '@large-payload/core';
import type { Forbidden, KnownRow, NewObject, RightObject } from '../catalog/care-catalog.js';
import type { AtRest, Hashed } from './at-rest.js';
import type { Damage, Finding } from './finding.js';
import { damageOf, isAtRest, unreadable } from './scrub.js';

/** The objects of one key that were listed together. */
export interface Group {
  /** Without a generation. */
  readonly key: string;
  readonly blob: BlobKey;
  readonly objects: readonly BlobInfo[];
}

export interface Verdict {
  /** The row's object is there, as far as was asked: nothing more to look for. */
  readonly seen?: KnownRow;
  readonly adopt?: NewObject;
  readonly damaged?: { readonly row: KnownRow; readonly damage: Damage };
  readonly right?: {
    readonly row: KnownRow;
    readonly object: RightObject;
    readonly kind: 'healed' | 'corrected' | 'moved';
  };
  readonly findings: readonly Finding[];
  /** Objects that a takedown erases. */
  readonly erased?: readonly BlobInfo[];
  /** Objects of uploads under way, and those about to be deleted. */
  readonly uploading?: number;
  readonly retired?: number;
}

/** Looks at a group. `retired`: names of objects that are about to be deleted. */
export async function judgeGroup(
  group: Group,
  row: KnownRow | undefined,
  retired: ReadonlySet<string>,
  forbidden: Forbidden,
  atRest: AtRest,
  signal: AbortSignal,
): Promise<Verdict> {
  const erased = group.objects.filter(({ key }) => forbidden.erased.has(key));
  const objects = group.objects.filter((object) => !erased.includes(object));
  const isErased = row !== undefined && forbidden.erased.has(row.physicalKey);
  const verdict =
    isErased && row.state !== 'taken_down'
      ? await judgeErasedRow(row, objects, atRest, signal)
      : await judgeAllowed({ ...group, objects }, row, retired, forbidden, atRest, signal);
  return erased.length === 0 ? verdict : { ...verdict, erased };
}

/** The row means an object that is erased: it is taken down in the end, unless a later generation is there. */
async function judgeErasedRow(
  row: KnownRow,
  others: readonly BlobInfo[],
  atRest: AtRest,
  signal: AbortSignal,
): Promise<Verdict> {
  if (row.state === 'uploading') return { findings: [] };
  const { right: object, findings } = await firstRight(others, atRest, signal);
  return object === undefined ? { findings } : { seen: row, right: { row, object, kind: 'moved' }, findings };
}

/** Of the objects of a key: those that were written after a takedown of it. */
function writtenSince(acceptedAt: Date | undefined, objects: readonly BlobInfo[]): BlobInfo[] {
  return acceptedAt === undefined
    ? []
    : objects.filter(({ modifiedAt }) => modifiedAt !== undefined && modifiedAt > acceptedAt);
}

async function judgeAllowed(
  group: Group,
  row: KnownRow | undefined,
  retired: ReadonlySet<string>,
  forbidden: Forbidden,
  atRest: AtRest,
  signal: AbortSignal,
): Promise<Verdict> {
  if ((row === undefined || row.state === 'taken_down') && forbidden.blocked.has(group.key)) {
    return { findings: group.objects.map(({ key }) => stray(key, 'it may not be stored again')) };
  }
  if (group.objects.length === 0) return { findings: [] };
  if (row === undefined) return judgeUnknown(group, atRest, signal);
  if (row.state === 'uploading') return { findings: [], uploading: group.objects.length };
  const since = writtenSince(forbidden.erased.get(row.physicalKey)?.acceptedAt, group.objects);
  if (row.state === 'taken_down' && since.length > 0) return judgeErasedRow(row, since, atRest, signal);
  const own = group.objects.find(({ key }) => key === row.physicalKey);
  const others = group.objects.filter((object) => object !== own || !isAtRest(row));
  const spare = others.filter(({ key }) => !retired.has(key));
  const verdict = isAtRest(row) ? await judgeRow(row, own, spare, atRest, signal) : { findings: [] };
  const taken = verdict.right?.object.physicalKey;
  const strays: Finding[] = [];
  for (const { key } of spare) {
    if (key === taken || (await atRest.look(key, signal)).kind === 'missing') continue; // deleted since it was listed
    strays.push(stray(key, `the blob is ${row.state}`));
  }
  return { ...verdict, findings: [...verdict.findings, ...strays], retired: others.length - spare.length };
}

/** A row at rest, its object if that was listed or looked up, and what could take its place. */
export async function judgeRow(
  row: KnownRow,
  own: BlobInfo | undefined,
  spare: readonly BlobInfo[],
  atRest: AtRest,
  signal: AbortSignal,
): Promise<Verdict> {
  if (own !== undefined && row.state !== 'damaged' && own.size === row.size) return { seen: row, findings: [] };
  const found: Hashed =
    own !== undefined ? await atRest.hash(row.physicalKey, signal) : await lookThenHash(row, atRest, signal);
  if (found.kind === 'unreadable') return { seen: row, findings: [unreadable(row.physicalKey, found.error)] };
  if (found.kind === 'right') {
    const object = { physicalKey: row.physicalKey, size: found.size };
    if (row.state === 'damaged') return { seen: row, right: { row, object, kind: 'healed' }, findings: [] };
    if (row.size === found.size) return { seen: row, findings: [] };
    return { seen: row, right: { row, object, kind: 'corrected' }, findings: [] };
  }
  const { right: object, findings } = await firstRight(spare, atRest, signal);
  if (object !== undefined) return { seen: row, right: { row, object, kind: 'moved' }, findings };
  return { seen: row, damaged: { row, damage: damageOf(row, found) ?? 'missing' }, findings };
}

/** Not listed, which says little. When it is there with the right size that is enough, as it is for a listed one. */
async function lookThenHash(row: KnownRow, atRest: AtRest, signal: AbortSignal): Promise<Hashed> {
  const looked = await atRest.look(row.physicalKey, signal);
  if (looked.kind !== 'there') return looked;
  if (row.state !== 'damaged' && looked.info.size === row.size) return { kind: 'right', size: row.size };
  return atRest.hash(row.physicalKey, signal);
}

async function judgeUnknown({ key, blob, objects }: Group, atRest: AtRest, signal: AbortSignal): Promise<Verdict> {
  const { right, findings } = await firstRight(objects, atRest, signal);
  if (right === undefined) return { findings };
  const info = objects.find((object) => object.key === right.physicalKey);
  const strays = objects
    .filter((object) => object !== info && !findings.some((finding) => finding.key === object.key))
    .map((object) => stray(object.key, 'another generation is newer'));
  const { modifiedAt } = info ?? {};
  const adopt = { key, blob, ...right, ...(modifiedAt === undefined ? {} : { modifiedAt }) };
  return { adopt, findings: [...findings, ...strays] };
}

/** The winner of several generations. Ends without one at an object that cannot be read: it might be the winner. */
async function firstRight(
  objects: readonly BlobInfo[],
  atRest: AtRest,
  signal: AbortSignal,
): Promise<{ right?: RightObject; findings: Finding[] }> {
  const findings: Finding[] = [];
  for (const { key } of [...objects].sort(newestFirst)) {
    const found = await atRest.hash(key, signal);
    if (found.kind === 'right') return { right: { physicalKey: key, size: found.size }, findings };
    if (found.kind === 'unreadable') return { findings: [...findings, unreadable(key, found.error)] };
    if (found.kind === 'wrong') findings.push({ kind: 'rejected', key, note: 'wrong bytes', isNew: false });
  }
  return { findings };
}

function newestFirst(a: BlobInfo, b: BlobInfo): number {
  const isFirstGeneration = ({ key }: BlobInfo): number => (/~[0-9a-z]{16}$/.test(key) ? 0 : 1);
  return isFirstGeneration(a) - isFirstGeneration(b) || (b.modifiedAt?.getTime() ?? 0) - (a.modifiedAt?.getTime() ?? 0);
}

function stray(key: string, note: string): Finding {
  return { kind: 'stray', key, note, isNew: false };
}
