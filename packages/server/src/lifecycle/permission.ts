/**
 * What a pair of complete marks permits (gc.md, rule 4). Pure: every decision about time is here.
 *
 *   ──M1.start──M1.end────≥ 2V────M2.start──M2.end──►         M2.end − M1.start + V < R
 *        └ G before it, and what a touch may be late: what was touched since then is kept
 */
import type { Mark, NamespaceName, Permission } from './lifecycle-catalog.js';

/** All in ms. */
export interface LifecycleTimes {
  /** G: how long a touch protects. */
  readonly graceMs: number;
  /** Q: between quarantine and deletion. */
  readonly quarantineMs: number;
  /** V: how late a list may show what was created. */
  readonly visibilityMs: number;
  /** How long the edges of a holder outlive it, beside what two marks take (`lingerOf`). */
  readonly lingerMs: number;
}

/** The marks of one Temporal namespace that answers for a blob namespace, the newest first. */
export interface MarkedNamespace {
  readonly namespace: NamespaceName;
  readonly marks: readonly Mark[];
}

export type Judgement =
  | { readonly permission: Permission; readonly missing?: never }
  /** What is still missing, one line each, for the operator. */
  | { readonly permission?: never; readonly missing: readonly string[] };

/** `answering` are all Temporal namespaces that may hold blobs of the blob namespace. */
export function permissionFor(
  blobNamespace: string,
  answering: readonly MarkedNamespace[],
  times: LifecycleTimes,
): Judgement {
  if (answering.length === 0) return { missing: ['no cluster answers for this namespace'] };
  const judged = answering.map((one) => ({ one, pair: pairOf(one.marks, times) }));
  const missing = judged.flatMap(({ one, pair }) => (pair === undefined ? [whyNoPair(one, times)] : []));
  if (missing.length > 0) return { missing };
  const pairs = judged.flatMap(({ pair }) => pair ?? []);
  const firstMarkStartedAt = new Date(Math.min(...pairs.map(({ first }) => first.startedAt.getTime())));
  return {
    permission: {
      blobNamespace,
      firstMarkStartedAt,
      untouchedSince: untouchedBefore(firstMarkStartedAt, times.graceMs),
      marks: pairs.flatMap(({ first, second }) => [first.id, second.id]),
    },
  };
}

/**
 * What was last touched before this, was not used within the grace before `time`. A use is written down late: a touch is
 * skipped for an hour or G/24, and a cache node forwards its own within as much.
 */
export function untouchedBefore(time: Date, graceMs: number): Date {
  return new Date(time.getTime() - graceMs - 2 * Math.min(3_600_000, graceMs / 24));
}

/** D, in ms: two marks as long as the longest of these, and what lies between them. */
export function lingerOf({ lingerMs }: LifecycleTimes, marks: readonly Mark[]): number {
  const spansMs = marks.map(({ startedAt, endedAt }) => (endedAt?.getTime() ?? 0) - startedAt.getTime());
  return lingerMs + 2 * Math.max(0, ...spansMs);
}

interface Pair {
  readonly first: Mark;
  readonly second: Mark;
}

/**
 * The last mark, which must be complete, and the youngest one before it that goes with it. (An older pair would be as sound;
 * but while anything is wrong, nothing goes.)
 */
function pairOf([second, ...earlier]: readonly Mark[], times: LifecycleTimes): Pair | undefined {
  if (second === undefined || !second.isComplete) return undefined;
  const first = earlier.find((candidate) => candidate.isComplete && isPair(candidate, second, times));
  return first === undefined ? undefined : { first, second };
}

function isPair(first: Mark, second: Mark, { visibilityMs }: LifecycleTimes): boolean {
  if (first.endedAt === undefined || second.endedAt === undefined) return false;
  const gapMs = second.startedAt.getTime() - first.endedAt.getTime();
  const spanMs = second.endedAt.getTime() - first.startedAt.getTime();
  return gapMs >= 2 * visibilityMs && spanMs + visibilityMs < Math.min(first.retentionMs, second.retentionMs);
}

function whyNoPair({ namespace, marks }: MarkedNamespace, times: LifecycleTimes): string {
  const name = `${namespace.cluster}/${namespace.name}`;
  const [latest] = marks;
  if (latest === undefined) return `${name}: it has not been marked yet`;
  if (!latest.isComplete) return `${name}: the last mark is not complete: ${latest.gaps.join('; ')}`;
  const complete = marks.filter(({ isComplete }) => isComplete);
  if (complete.length < 2) return `${name}: one more complete mark is needed`;
  const spanMs = (latest.endedAt?.getTime() ?? 0) - latest.startedAt.getTime();
  if (2 * spanMs + 3 * times.visibilityMs >= latest.retentionMs) {
    return `${name}: two marks take longer than the retention of ${latest.retentionMs / 3_600_000} h; make it longer, or raise requests-per-second`;
  }
  return `${name}: two complete marks, ${(2 * times.visibilityMs) / 1000} s apart and within the retention, are needed`;
}
