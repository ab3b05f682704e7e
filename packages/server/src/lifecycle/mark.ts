/**
 * One mark of one Temporal namespace: who holds what (gc.md, rule 3).
 *
 *   describe ─ the same as before? ─ list every kind, scan what is new or open, until a list shows nothing new
 *            └ holders that no list showed: asked for by id; only NotFound makes them gone
 *
 * Whatever is not understood is a gap. A mark with a gap is incomplete: what it found is kept, and it permits nothing. A
 * crash leaves a mark without an end, which permits nothing either; the next one goes on with what has been scanned.
 */
import { isLpsError, LpsError, settleAll } from '@large-payload/core';
import type { FoundHolder, HolderKind } from './holders/holder-kind.js';
import type { Fence, HolderRow, KnownNamespace, LifecycleCatalog, Mark, NamespaceName } from './lifecycle-catalog.js';
import type { DescribedNamespace, Identity, TemporalNamespace } from './temporal-api.js';

export interface MarkOptions {
  readonly catalog: LifecycleCatalog;
  readonly fence: Fence;
  readonly namespace: TemporalNamespace;
  readonly kinds: readonly HolderKind[];
  /** Aborted when another replica leads, or the service stops. */
  readonly signal: AbortSignal;
  /** Holders that are read at the same time. Default 8. */
  readonly concurrency?: number;
}

/** A mark that has ended; `identityChanged`: somebody else answers under the same name. */
export interface MarkOutcome {
  readonly mark: Mark;
  readonly identityChanged: boolean;
}

/** Of a namespace that is to be known anew, by an operator's word. */
export const nobody: Identity = { clusterId: '', namespaceId: '', serverVersion: '' };

const maxPasses = 20;
const maxGaps = 20;
const rowsAtOnce = 500;

/** Throws ABORTED when the signal is aborted or another replica leads; everything else ends in the outcome. */
export async function markNamespace(options: MarkOptions): Promise<MarkOutcome> {
  const { catalog, namespace, fence, signal } = options;
  const described = await namespace.describe().catch((error: unknown) => problemOf(error, signal));
  if (typeof described === 'string') return failedMark(catalog, fence, namespace, described);
  const known = await knownNamespace(catalog, namespace, identityOf(described));
  const mark = await catalog.beginMark(fence, known, described.retentionMs);
  const marking = new Marking(options, mark);
  const changed = changeOf(known, described);
  if (changed === undefined) {
    for (const gap of described.gaps) marking.gap(gap);
    await marking.run().catch((error: unknown) => marking.gap(problemOf(error, signal)));
  } else {
    // it may be another cluster at the same address: what it says of our holders means nothing
    marking.gap(changed);
  }
  const ended = await catalog.endMark(fence, mark, marking.outcome());
  return { mark: ended, identityChanged: changed !== undefined };
}

/** On record for whoever asks why nothing goes. */
export async function failedMark(
  catalog: LifecycleCatalog,
  fence: Fence,
  { cluster, name }: NamespaceName,
  problem: string,
): Promise<MarkOutcome> {
  // one that was never reached as well: it may hold everything, and would be missing wherever known ones are asked
  const known = await catalog.knowNamespace({ cluster, name }, nobody);
  const mark = await catalog.beginMark(fence, known, 0);
  const outcome = { isComplete: false, gaps: [problem], holders: 0, scanned: 0 };
  return { mark: await catalog.endMark(fence, mark, outcome), identityChanged: false };
}

class Marking {
  readonly #options: MarkOptions;
  readonly #mark: Mark;
  readonly #gaps = new Set<string>();
  #holders = 0;
  #scanned = 0;

  constructor(options: MarkOptions, mark: Mark) {
    this.#options = options;
    this.#mark = mark;
  }

  gap(text: string): void {
    if (this.#gaps.size < maxGaps) this.#gaps.add(text);
  }

  outcome(): Parameters<LifecycleCatalog['endMark']>[2] {
    return { isComplete: this.#gaps.size === 0, gaps: [...this.#gaps], holders: this.#holders, scanned: this.#scanned };
  }

  async run(): Promise<void> {
    let youngest = Number.POSITIVE_INFINITY;
    for (let pass = 1; ; pass += 1) {
      const listed = await this.#list(youngest);
      await this.#scanListed();
      if (listed.fresh === 0) break;
      // what starts while we list is for the next mark, or a busy namespace would never have been listed
      if (pass === 1) youngest = listed.youngest;
      if (pass === maxPasses) return this.gap(`after ${maxPasses} lists there were still new holders`);
    }
    await this.#askForUnseen();
  }

  /**
   * One list of every kind: how many holders this mark had not seen before, those left out that started after `youngest`,
   * and when the youngest of all started.
   */
  async #list(youngest: number): Promise<{ fresh: number; youngest: number }> {
    const { kinds, namespace, signal } = this.#options;
    const listed = { fresh: 0, youngest: Number.NEGATIVE_INFINITY };
    for (const kind of kinds) {
      for await (const page of kind.list(namespace)) {
        throwIfAborted(signal);
        const found = distinct(page);
        const isOld = ({ startedAt = youngest }: FoundHolder): boolean => startedAt <= youngest;
        const fresh = await this.#note(kind, found.filter(isOld));
        this.#holders +=
          fresh +
          (await this.#note(
            kind,
            found.filter((one) => !isOld(one)),
          ));
        listed.fresh += fresh;
        for (const { startedAt } of found) listed.youngest = Math.max(listed.youngest, startedAt ?? listed.youngest);
      }
    }
    return listed;
  }

  async #note(kind: HolderKind, found: readonly FoundHolder[]): Promise<number> {
    return found.length === 0 ? 0 : this.#options.catalog.noteHolders(this.#mark, kind.name, found);
  }

  async #scanListed(): Promise<void> {
    const { catalog } = this.#options;
    await this.#eachBatch(
      (after) => catalog.unscannedHolders(this.#mark, after, rowsAtOnce),
      (row) => this.#scan(row),
    );
  }

  async #askForUnseen(): Promise<void> {
    const { catalog } = this.#options;
    await this.#eachBatch(
      (after) => catalog.unseenHolders(this.#mark, after, rowsAtOnce),
      (row) => this.#scan(row),
    );
  }

  async #scan(row: HolderRow): Promise<void> {
    const { catalog, namespace, kinds } = this.#options;
    const kind = kinds.find(({ name }) => name === row.kind);
    if (kind === undefined) return this.gap(`there are holders of a kind that is not known here: ${row.kind}`);
    const scan = await kind.scan(namespace, row.externalId, row.cursor);
    this.#scanned += 1;
    if (scan === undefined) {
      // what it held, it may have handed on before anybody read it
      if (row.cursor === undefined) this.gap(`a ${row.kind} was gone before it was read: ${shown(row)}`);
      return catalog.markGone(row);
    }
    for (const gap of scan.gaps) this.gap(`${row.kind} ${shown(row)}: ${gap}`);
    const isWhole = scan.gaps.length === 0;
    await catalog.saveScan(this.#mark, row, {
      edges: scan.edges,
      isDone: scan.isClosed && isWhole,
      // it is read again from the same place until all of it is understood
      ...(isWhole ? { cursor: scan.cursor } : {}),
    });
  }

  async #eachBatch(
    read: (after: bigint) => Promise<HolderRow[]>,
    scan: (row: HolderRow) => Promise<void>,
  ): Promise<void> {
    const { signal, concurrency = 8 } = this.#options;
    for (let after = 0n; ; ) {
      const rows = await read(after);
      const last = rows.at(-1);
      if (last === undefined) return;
      for (let at = 0; at < rows.length; at += concurrency) {
        throwIfAborted(signal);
        await settleAll(rows.slice(at, at + concurrency), signal, scan);
      }
      after = last.id;
    }
  }
}

/** A list may name the same one twice, when it changes under the reader. */
function distinct(page: readonly FoundHolder[]): FoundHolder[] {
  return [...new Map(page.map((found) => [found.id, found])).values()];
}

function identityOf({ clusterId, namespaceId, serverVersion }: DescribedNamespace): Identity {
  return { clusterId, namespaceId, serverVersion };
}

/** An identity that an operator let go of (`nobody`) is taken from what is there now. */
async function knownNamespace(
  catalog: LifecycleCatalog,
  { cluster, name }: NamespaceName,
  identity: Identity,
): Promise<KnownNamespace> {
  const known = await catalog.knowNamespace({ cluster, name }, identity);
  if (known.identity.clusterId !== nobody.clusterId) return known;
  await catalog.acceptIdentity(known, identity);
  return { ...known, identity };
}

const meantSo = 'if that is meant to be so: lps gc resume';

/** Whether a mark found somebody else under the namespace's name. */
export function isOfAnother({ gaps }: Mark): boolean {
  return gaps.some((gap) => gap.endsWith(meantSo));
}

/** A newer server is no other cluster; one that is older than before may be a restored one. */
function changeOf({ identity }: KnownNamespace, now: DescribedNamespace): string | undefined {
  if (identity.clusterId !== now.clusterId)
    return `this is another cluster than before (${now.clusterId}, not ${identity.clusterId}); ${meantSo}`;
  if (identity.namespaceId !== now.namespaceId)
    return `the namespace was made anew (${now.namespaceId}, not ${identity.namespaceId}); ${meantSo}`;
  return undefined;
}

/** What an error means for the mark. Throws it on when it is about us. */
function problemOf(error: unknown, signal: AbortSignal): string {
  throwIfAborted(signal);
  if (!isLpsError(error) || error.code === 'ABORTED') throw error;
  return `${error.message} (${error.code})`;
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new LpsError('ABORTED', 'the mark was broken off', { cause: signal.reason });
}

/** `"{workflow id} {run id}"` of a run. */
function shown({ externalId }: HolderRow): string {
  return JSON.stringify(externalId.slice(0, 200).replaceAll('\n', ' '));
}
