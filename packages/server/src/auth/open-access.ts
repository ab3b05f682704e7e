/** Tokens and audit, on connections of their own: neither waits for the catalog's, nor takes them away. */
import { type Logger, pino } from 'pino';
import { openDatabase } from '../catalog/database.js';
import { prepare } from '../catalog/postgres-catalog.js';
import { accessPoolSize } from '../durable/connections.js';
import { type Audit, type AuditOptions, openAudit } from './audit.js';
import { openTokens, type Tokens } from './tokens.js';

export interface AccessOptions {
  readonly url: string;
  /** Default `lps`. */
  readonly schema?: string;
  /** Default: nothing is logged. */
  readonly log?: Logger;
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
  /** Path of the audit's JSON lines. */
  readonly auditLog?: string | undefined;
  readonly onAuditLost?: AuditOptions['onLost'];
}

export interface OpenAccess {
  readonly tokens: Tokens;
  readonly audit: Audit;
  /** Resolves when what was recorded has been tried. */
  close(): Promise<void>;
}

const statementTimeoutMs = 5000;

/** Makes or migrates the tables first. Throws CONFIG_INVALID, CATALOG_UNAVAILABLE. */
export async function openAccess(options: AccessOptions): Promise<OpenAccess> {
  const { url, schema = 'lps', log = pino({ level: 'silent' }), clock = Date.now, auditLog, onAuditLost } = options;
  await prepare(url, schema);
  const database = openDatabase({
    url,
    maxConnections: accessPoolSize,
    statementTimeoutMs,
    log: (line) => log.warn(line),
  });
  try {
    const audit = await openAudit({ database, schema, file: auditLog, log, clock, onLost: onAuditLost });
    return {
      tokens: openTokens({ database, schema, log, clock }),
      audit,
      async close() {
        await audit.close();
        await database.close();
      },
    };
  } catch (error) {
    await database.close();
    throw error;
  }
}
