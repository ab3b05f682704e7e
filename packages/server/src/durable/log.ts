/** DBOS' log lines among ours: its news are details to us, and what it repeats while Postgres is away is said once in a while. */
import type { DBOSConfig } from '@dbos-inc/dbos-sdk';
import type { Logger } from 'pino';

type DbosLogger = NonNullable<DBOSConfig['logger']>;

/** The same warning, whatever numbers are in it, comes up so often at most. */
const repeatMs = 30_000;
const maxKnown = 200;

/** Info becomes debug, debug becomes trace; a warning or an error that was just said becomes debug. */
export function dbosLogger(log: Logger, now: () => number = () => performance.now()): DbosLogger {
  const saidAt = new Map<string, number>();
  const isNew = (text: string): boolean => {
    const kind = text.replace(/[\d.]+/g, '#').slice(0, 200);
    const before = saidAt.get(kind);
    if (before !== undefined && now() - before < repeatMs) return false;
    if (saidAt.size >= maxKnown) saidAt.clear();
    saidAt.set(kind, now());
    return true;
  };
  return {
    debug: (entry) => log.trace(`durable: ${entry}`),
    info: (entry) => log.debug(`durable: ${entry}`),
    warn: (entry) => log[isNew(String(entry)) ? 'warn' : 'debug'](`durable: ${entry}`),
    error(entry, metadata) {
      const level = isNew(String(entry)) ? 'error' : 'debug';
      log[level](metadata?.error === undefined ? {} : { err: metadata.error }, `durable: ${entry}`);
    },
  };
}
