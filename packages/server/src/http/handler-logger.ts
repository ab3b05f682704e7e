import type { Logger } from 'pino';

type LogLine = (fields: Record<string, unknown>, message: string) => void;

/** What an embedding program may log with: pino, or anything that takes fields and a message. Missing levels are dropped. */
export interface HandlerLogger {
  readonly error?: LogLine;
  readonly warn?: LogLine;
  readonly info?: LogLine;
  readonly debug?: LogLine;
}

/** A pino logger itself; anything else in the shape of one. */
export function loggerOver(logger: HandlerLogger): Logger {
  if ('child' in logger && 'bindings' in logger) return logger as Logger;
  return shaped(logger, {}) as unknown as Logger;
}

function shaped(logger: HandlerLogger, bound: Record<string, unknown>): Record<string, unknown> {
  const at =
    (level: keyof HandlerLogger) =>
    (first: unknown, message?: unknown): void => {
      const isText = typeof first === 'string';
      const fields = isText || typeof first !== 'object' ? bound : { ...bound, ...first };
      logger[level]?.(fields, String(isText ? first : (message ?? '')));
    };
  const nothing = (): void => {};
  return {
    level: 'info',
    fatal: at('error'),
    error: at('error'),
    warn: at('warn'),
    info: at('info'),
    debug: at('debug'),
    trace: nothing,
    silent: nothing,
    child: (more: Record<string, unknown>) => shaped(logger, { ...bound, ...more }),
  };
}
