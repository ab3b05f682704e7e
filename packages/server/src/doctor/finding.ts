/** What `lps doctor` finds. Ids are stable: programs and docs/doctor.md go by them. */

/** `fail`: it does not work, or loses data. `warn`: it works, and will hurt. `info`: good to know. */
export type Severity = 'ok' | 'info' | 'warn' | 'fail';

/** Every finding, in the order of the report, with the worst that it can be (docs/doctor.md: a test compares the two). */
export const findingKinds = {
  'settings.valid': 'fail',
  'settings.access': 'warn',
  'settings.memory-store': 'warn',
  'runtime.node': 'fail',
  'runtime.platform': 'fail',
  'runtime.memory': 'warn',
  'data-dir.writable': 'fail',
  'data-dir.space': 'fail',
  'data-dir.file-system': 'warn',
  'data-dir.in-use': 'info',
  'store.reach': 'fail',
  'store.clock': 'fail',
  'store.put': 'fail',
  'store.conditional-put': 'fail',
  'store.get': 'fail',
  'store.range': 'fail',
  'store.head': 'fail',
  'store.list': 'fail',
  'store.checksum': 'fail',
  'store.delete': 'fail',
  'bucket.settings': 'info',
  'bucket.versioning': 'warn',
  'bucket.soft-delete': 'warn',
  'bucket.retention': 'warn',
  'bucket.lifecycle': 'fail',
  'postgres.reach': 'fail',
  'postgres.version': 'fail',
  'postgres.read-only': 'fail',
  'postgres.pooler': 'fail',
  'postgres.rights': 'fail',
  'postgres.migrations': 'fail',
  'postgres.connections': 'fail',
  'postgres.listen': 'warn',
  'postgres.statement-timeout': 'warn',
  'postgres.durability': 'warn',
  'postgres.clock': 'fail',
  'catalog.owner': 'fail',
  'service.reach': 'fail',
  'service.token': 'fail',
  'service.ready': 'fail',
  'service.version': 'warn',
  'service.clock': 'fail',
  'limits.threshold': 'fail',
  'limits.max-blob-bytes': 'fail',
  'project.readable': 'fail',
  'project.packages': 'info',
  'project.node': 'fail',
  'project.sdk': 'fail',
  'project.missing': 'fail',
  'project.temporal-copies': 'fail',
  'project.core-copies': 'warn',
  'project.protobufjs': 'fail',
  'doctor.unfinished': 'fail',
} as const satisfies Record<string, Severity>;

export type FindingId = keyof typeof findingKinds;
/** Those that can be as bad as that. */
type IdOf<S extends Severity> = { [Id in FindingId]: (typeof findingKinds)[Id] extends S ? Id : never }[FindingId];
export type FailingId = IdOf<'fail'>;
type WarningId = IdOf<'fail' | 'warn'>;

export interface Finding {
  readonly id: FindingId;
  readonly severity: Severity;
  /** What was seen, in a few words. */
  readonly seen: string;
  /** What to do about it; always there for `warn` and `fail`. */
  readonly todo?: string;
}

export function ok(id: FindingId, seen: string): Finding {
  return { id, severity: 'ok', seen };
}

export function info(id: FindingId, seen: string, todo?: string): Finding {
  return { id, severity: 'info', seen, ...(todo === undefined ? {} : { todo }) };
}

export function warn(id: WarningId, seen: string, todo: string): Finding {
  return { id, severity: 'warn', seen, todo };
}

export function fail(id: FailingId, seen: string, todo: string): Finding {
  return { id, severity: 'fail', seen, todo };
}
