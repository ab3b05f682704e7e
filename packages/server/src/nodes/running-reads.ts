/**
 * Reads under way, each from before its row is looked up until its last byte is out, so that they can be cut off.
 *
 *   an event    cuts the reads of its blob, now: also those that have found the row and not yet the bytes
 *   no lease    a read may go on until M after the lease ended; M after its own beginning when there was none
 *
 * A read begins twice: here as a layer over the store (whoever reads: until the stream ends), and in http/transfer.ts (until
 * the socket has the last byte, whether it came as a stream or in one piece).
 */
import { type BlobInfo, type BlobStore, discard, isBytes, LpsError, type StoredBlob } from '@large-payload/core';
import { type Moment, moment } from '../catalog/row-cache.js';
import type { NodeEvent } from './read-leases.js';

export interface RunningReadsOptions {
  /** M, in ms. */
  readonly leaseMs: number;
  /** When the lease on reading ends, or ended. */
  readonly endsAt: () => Moment;
  /** Both clocks of this machine; for tests. */
  readonly clock?: () => Moment;
}

/** One of them. */
export interface RunningRead {
  /** Called once when it is cut, at once when it has been. Replaces what was given before. */
  onCut(run: (error: LpsError) => void): void;
  /** Throws what it was cut with, if it was; also when its time is over, and nobody has looked yet. */
  check(): void;
  /** It ends M after its beginning, lease or not: what it reads was not asked of the catalog. */
  limit(): void;
  /** Its last byte is out, or it failed. */
  end(): void;
}

/** What to forget once more when a read that was cut has given up, which may have kept something after the event. */
export type Again = () => void;

interface Entry {
  readonly beganAt: Moment;
  /** The blob's key without a generation; `undefined`: of blobs that are not known yet. */
  readonly key: string | undefined;
  isLimited: boolean;
  error: LpsError | undefined;
  again: Again | undefined;
  onCut: ((error: LpsError) => void) | undefined;
}

const maxTickMs = 1000;

const unasked: unique symbol = Symbol('the catalog was not asked');

/**
 * Marks what was read while the catalog could not be asked, on a replica whose lease may last: the event that it should have
 * known of may have been applied before, and will not cut it. Nobody may keep it, nor read it for longer than M.
 */
export function withoutCatalog(found: StoredBlob): StoredBlob {
  return { ...found, info: Object.assign({ ...found.info }, { [unasked]: true }) };
}

export function isWithoutCatalog(info: BlobInfo): boolean {
  return unasked in info;
}

/** As many as there are requests and streams under way. */
export class RunningReads {
  readonly #options: RunningReadsOptions;
  readonly #clock: () => Moment;
  readonly #tickMs: number;
  readonly #entries = new Set<Entry>();
  readonly #byKey = new Map<string, Set<Entry>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RunningReadsOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => moment());
    this.#tickMs = Math.min(maxTickMs, options.leaseMs / 8);
  }

  get count(): number {
    return this.#entries.size;
  }

  /**
   * Before the row is looked up. Without a key it is a read of whatever: no event cuts it, and it ends M after its beginning,
   * lease or not.
   */
  begin(key?: string): RunningRead {
    const entry: Entry = {
      ...{ beganAt: this.#clock(), isLimited: false, error: undefined, again: undefined, onCut: undefined },
      key: key === undefined ? undefined : withoutGeneration(key),
    };
    this.#add(entry);
    return {
      onCut: (run) => {
        if (entry.error === undefined) entry.onCut = run;
        else run(entry.error);
      },
      check: () => {
        if (entry.error === undefined && this.#isOver(entry, this.#clock())) this.#cut(entry, tooLong());
        if (entry.error !== undefined) throw entry.error;
      },
      limit: () => {
        entry.isLimited = true;
      },
      end: () => this.#end(entry),
    };
  }

  /** Ends the reads of what was deleted or taken down. `again`: forgets what one of them may still keep. */
  cut(events: readonly NodeEvent[], again?: (event: NodeEvent) => void): void {
    for (const event of events) {
      const error = errorOf(event);
      for (const entry of [...(this.#byKey.get(event.key) ?? [])]) {
        this.#cut(entry, error, again && (() => again(event)));
      }
    }
  }

  /** Ends all of them: what happened to their blobs is not known. `again` is called once, behind the last one. */
  cutAll(again?: Again): void {
    const error = new LpsError('TRY_AGAIN', 'what is kept here was forgotten while the blob was read; read it again');
    const running = [...this.#entries].filter(({ key }) => key !== undefined);
    let left = running.length;
    const one = (): void => {
      left -= 1;
      if (left === 0) again?.();
    };
    for (const entry of running) this.#cut(entry, error, one);
  }

  /** Ends those whose time will be over before the next look. Public for tests, which bring their own clock. */
  tick(): void {
    const next = moment(this.#tickMs, this.#clock());
    for (const entry of [...this.#entries]) if (this.#isOver(entry, next)) this.#cut(entry, tooLong());
  }

  /** The outermost layer of a store: whatever is read through it can be cut. */
  over(store: BlobStore): BlobStore {
    return {
      ...store,
      get: async (key, options) => {
        const read = this.begin(key);
        const asked = (async () => store.get(key, options))();
        let found: StoredBlob | undefined;
        try {
          found = await Promise.race([asked, cutOf(read)]);
          if (found !== undefined && isWithoutCatalog(found.info)) read.limit();
          read.check();
        } catch (error) {
          // not before it has given up: what it keeps until then is to be forgotten again
          void asked
            .then((late) => late && discard(late.body))
            .catch(() => undefined)
            .finally(() => read.end());
          throw error;
        }
        if (found === undefined || isBytes(found.body) || found.body.closed) {
          read.end();
          return found;
        }
        const { body } = found;
        body.once('close', () => read.end());
        read.onCut((error) => {
          body.on('error', () => undefined); // perhaps nobody listens yet, or any more
          body.destroy(error);
        });
        return found;
      },
    };
  }

  #isOver({ beganAt, key, isLimited }: Entry, now: Moment): boolean {
    const { leaseMs, endsAt } = this.#options;
    const lease = endsAt();
    const from = key === undefined || isLimited || beganAt.steadyMs > lease.steadyMs ? beganAt : lease;
    return now.steadyMs - from.steadyMs >= leaseMs || now.wallMs - from.wallMs >= leaseMs;
  }

  #cut(entry: Entry, error: LpsError, again?: Again): void {
    if (again !== undefined) {
      const before = entry.again;
      entry.again = () => {
        before?.();
        again();
      };
    }
    if (entry.error !== undefined) return;
    entry.error = error;
    entry.onCut?.(error);
    entry.onCut = undefined;
  }

  #add(entry: Entry): void {
    this.#entries.add(entry);
    if (entry.key !== undefined) {
      const others = this.#byKey.get(entry.key);
      if (others === undefined) this.#byKey.set(entry.key, new Set([entry]));
      else others.add(entry);
    }
    this.#timer ??= setInterval(() => this.tick(), this.#tickMs).unref();
  }

  #end(entry: Entry): void {
    if (!this.#entries.delete(entry)) return;
    if (entry.key !== undefined) {
      const others = this.#byKey.get(entry.key);
      others?.delete(entry);
      if (others?.size === 0) this.#byKey.delete(entry.key);
    }
    entry.again?.();
    if (this.#entries.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** Rejects when it is cut, whatever it waits for. */
function cutOf(read: RunningRead): Promise<never> {
  return new Promise((_, reject) => read.onCut(reject));
}

function withoutGeneration(key: string): string {
  return key.replace(/~[0-9a-z]{16}$/, '');
}

function errorOf({ kind }: NodeEvent): LpsError {
  return kind === 'takedown'
    ? new LpsError('BLOB_TAKEN_DOWN', 'the blob was taken down while it was read')
    : new LpsError('TRY_AGAIN', 'the blob was deleted while it was read; read it again');
}

function tooLong(): LpsError {
  return new LpsError('TRY_AGAIN', 'this read may go on no longer without a lease on reading; go on where it was cut');
}
