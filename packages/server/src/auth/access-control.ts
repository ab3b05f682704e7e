/** Who may call `lps serve`, and what is kept of what he did: the parts of this directory put together. */
import type { Logger } from 'pino';
import type { Config } from '../config/settings.js';
import type { LeaderTask } from '../durable/leader-tasks.js';
import type { Metrics } from '../metrics.js';
import type { Audit } from './audit.js';
import { openAuthenticator } from './authenticator.js';
import type { GateOptions } from './gate.js';
import { CallerLimits } from './limits.js';
import { openAccess } from './open-access.js';

export interface AccessControl {
  readonly gate: GateOptions;
  /** Absent where nobody is asked who he is, and no file for it was named. */
  readonly audit?: Audit;
  readonly tasks: readonly LeaderTask[];
  close(): Promise<void>;
}

const hourMs = 3_600_000;

/** Throws CONFIG_INVALID, CATALOG_UNAVAILABLE. */
export async function openAccessControl(
  config: Config,
  databaseUrl: string,
  log: Logger,
  metrics: Metrics,
): Promise<AccessControl> {
  const { auth, auditLog, auditRetentionMs, tokenRate, tokenConcurrency } = config;
  if (auth === 'none' && auditLog === undefined) return { gate: {}, tasks: [], close: async () => {} };
  const access = await openAccess({
    ...{ url: databaseUrl, schema: config.databaseSchema, log, auditLog },
    onAuditLost: () => metrics.alarm('audit_lost'),
  });
  try {
    const { audit, close } = access;
    const tasks = [pruneTask(audit, auditRetentionMs)];
    if (auth === 'none') return { gate: {}, audit, tasks, close };
    const authenticator = await openAuthenticator(config, access, log);
    const limits = new CallerLimits({ rate: tokenRate, concurrency: tokenConcurrency });
    return { gate: { authenticator, limits }, audit, tasks, close };
  } catch (error) {
    await access.close();
    throw error;
  }
}

function pruneTask(audit: Audit, retentionMs: number): LeaderTask {
  return {
    name: 'forgetting what is old in the audit',
    everyMs: hourMs,
    async run({ signal }) {
      let removed: number;
      do removed = await audit.prune(new Date(Date.now() - retentionMs));
      while (removed > 0 && !signal.aborted);
    },
  };
}
