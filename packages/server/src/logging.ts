/**
 * The service's own log: JSON lines, or pretty ones on a terminal.
 *
 * What callers send (ids, keys, headers) reaches terminals through here, so control characters are escaped, and what
 * must not be written at all is cut out: credentials, and bytes of payloads.
 */
import { Writable } from 'node:stream';
import { type Logger, type LoggerOptions, pino } from 'pino';
import { prettyFactory } from 'pino-pretty';
import { escapeControls } from './cli/terminal.js';

export type { Logger } from 'pino';

export interface LogSettings {
  readonly logLevel: string;
  readonly logFormat: 'auto' | 'json' | 'pretty';
}

/** Where lines go; a terminal says `isTTY`. */
export interface LogDestination {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

const secretHeaders = ['authorization', 'authorization-extras', 'cookie', 'x-amz-security-token'];
const secretPlaces = ['headers', 'req.headers', 'request.headers'];
const redacted = [
  ...secretHeaders.flatMap((header) => secretPlaces.map((place) => `${place}["${header}"]`)),
  'authorization',
  'databaseUrl',
  'config.databaseUrl',
];

/** The logger of a process. Standard output is written at once, so that the last line before a crash is there. */
export function createLogger(settings: LogSettings, destination: LogDestination = process.stdout): Logger {
  const options: LoggerOptions = {
    level: settings.logLevel,
    redact: { paths: redacted, censor: '(hidden)' },
    formatters: { level: (label) => ({ level: label }), log: withoutBytes },
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
  };
  const isPretty = settings.logFormat === 'pretty' || (settings.logFormat === 'auto' && destination.isTTY === true);
  if (isPretty) return pino(options, prettyStream(destination));
  if (destination === process.stdout) return pino(options, pino.destination({ dest: 1, sync: true }));
  return pino(options, destination);
}

function prettyStream(destination: LogDestination): Writable {
  const format = prettyFactory({
    colorize: destination.isTTY === true,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,hostname',
    messageFormat: (log, messageKey) => escapeControls(String(log[messageKey] ?? '')),
    singleLine: true,
  });
  return new Writable({
    decodeStrings: false,
    write(line: string | Buffer, _encoding, done) {
      // JSON has escaped the characters below U+0020 already; terminals act on some of those above it too
      destination.write(format(String(line)).replace(/[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, escapeControls));
      done();
    },
  });
}

/** Bytes are replaced by how many there are, at the top level and one below (where headers, bodies and payloads sit). */
function withoutBytes(fields: Record<string, unknown>): Record<string, unknown> {
  return mapValues(fields, (value) => {
    if (isPlainObject(value)) return mapValues(value, bytesAsCount);
    return Array.isArray(value) ? value.map(bytesAsCount) : bytesAsCount(value);
  });
}

function bytesAsCount(value: unknown): unknown {
  return value instanceof Uint8Array ? `(${value.length} bytes)` : value;
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Copies only when something changes: this runs for every line. */
function mapValues(fields: Record<string, unknown>, map: (value: unknown) => unknown): Record<string, unknown> {
  let changed: Record<string, unknown> | undefined;
  for (const [name, value] of Object.entries(fields)) {
    const mapped = map(value);
    if (Object.is(mapped, value)) continue;
    changed ??= { ...fields };
    changed[name] = mapped;
  }
  return changed ?? fields;
}
