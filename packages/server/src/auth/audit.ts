/**
 * Who did what, and when: a line in a file for the collector of logs, a row in the catalog for whoever asks later. Never
 * bytes of payloads.
 *
 *   {"at":"2026-11-23T12:00:00.000Z","principal":"token:k3v9x2m4abcd","action":"decode","namespaces":["orders"],
 *    "subjects":["/blobs/orders/common/sha256:…"],"status":200,"requestId":"4944351da13a-7","remote":"10.0.0.7"}
 *
 * The audit never fails a request: what could not be written is counted and logged.
 */
import type { Logger } from 'pino';
import type { Database } from '../catalog/database.js';
import { escapeControls } from '../cli/terminal.js';
import { type AuditFile, openAuditFile } from './audit-file.js';
import { AuditTable } from './audit-table.js';

export interface AuditEntry {
  readonly principal: string;
  /** As routes name it: `decode`, `cancel workflow`. */
  readonly action: string;
  readonly namespaces: readonly string[];
  /** Keys of blobs, ids of workflows or tokens. Behind the 100th only their number is kept. */
  readonly subjects: readonly string[];
  /** What HTTP answered. */
  readonly status: number;
  readonly requestId?: string | undefined;
  /** The caller's address. */
  readonly remote?: string | undefined;
}

/** An entry as it is written: escaped, and bounded. */
export type AuditLine = AuditEntry & { readonly at: string };

export type AuditPlace = 'file' | 'table';

export interface Audit {
  /** Resolves when both places were tried, or have taken too long (2 s). Never rejects. */
  record(entry: AuditEntry): Promise<void>;
  /**
   * Removes rows from before a time, the oldest first, `limit` at most (default 10,000); returns how many there were. Throws
   * CATALOG_UNAVAILABLE.
   */
  prune(olderThan: Date, limit?: number): Promise<number>;
  /** Resolves when what was recorded has been tried. */
  close(): Promise<void>;
}

export interface AuditOptions {
  readonly database: Database;
  readonly schema: string;
  /** Path of the JSON lines; without one there is the table alone. */
  readonly file?: string | undefined;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  /** Entries that one of the places will never have. */
  readonly onLost?: ((place: AuditPlace, entries: number) => void) | undefined;
}

const maxTexts = 100;
const maxTextLength = 1100;
const patienceMs = 2000;
const complaintEveryMs = 60_000;

/** Throws CONFIG_INVALID when the file cannot be written. */
export async function openAudit({ database, schema, file, log, clock, onLost }: AuditOptions): Promise<Audit> {
  const lost = { file: complaints('file', log, clock, onLost), table: complaints('table', log, clock, onLost) };
  const table = new AuditTable({ database, schema, clock, onLost: lost.table });
  const lines: AuditFile | undefined =
    file === undefined ? undefined : await openAuditFile(file, { clock, onLost: lost.file });
  return {
    async record(entry) {
      const line = lineOf(entry, clock());
      await settled(patienceMs, [lines?.append(JSON.stringify(line)), table.insert(line)]);
    },
    prune: (olderThan, limit = 10_000) => table.prune(olderThan, limit),
    async close() {
      await Promise.all([lines?.close(), table.close()]);
    },
  };
}

/** Counts all that is lost, and says so once a minute. */
function complaints(
  place: AuditPlace,
  log: Logger,
  clock: () => number,
  onLost: AuditOptions['onLost'],
): (entries: number, error: unknown) => void {
  let unsaid = 0;
  let saidAt = Number.NEGATIVE_INFINITY;
  return (entries, error) => {
    onLost?.(place, entries);
    unsaid += entries;
    if (Math.abs(clock() - saidAt) < complaintEveryMs) return;
    log.error({ err: error, place, entries: unsaid }, 'the audit was not written');
    unsaid = 0;
    saidAt = clock();
  };
}

function lineOf(
  { principal, action, namespaces, subjects, status, requestId, remote }: AuditEntry,
  now: number,
): AuditLine {
  return {
    at: new Date(now).toISOString(),
    principal: oneLine(principal),
    action: oneLine(action),
    namespaces: bounded(namespaces),
    subjects: bounded(subjects),
    status,
    ...(requestId === undefined ? {} : { requestId: oneLine(requestId) }),
    ...(remote === undefined ? {} : { remote: oneLine(remote) }),
  };
}

function bounded(texts: readonly string[]): string[] {
  if (texts.length <= maxTexts) return texts.map(oneLine);
  return [...texts.slice(0, maxTexts).map(oneLine), `(${texts.length - maxTexts} more)`];
}

function oneLine(text: string): string {
  const line = escapeControls(text.slice(0, maxTextLength));
  return line.length <= maxTextLength ? line : line.slice(0, maxTextLength).replace(/\p{Cs}$/u, '');
}

async function settled(patienceMs: number, work: readonly (Promise<void> | undefined)[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const impatience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, patienceMs);
  });
  await Promise.race([Promise.allSettled(work), impatience]);
  clearTimeout(timer);
}
