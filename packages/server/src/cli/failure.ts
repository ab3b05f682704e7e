import { isLpsError, LpsError } from '@large-payload/core';
import { CommanderError } from 'commander';
import { escapeControls } from './terminal.js';

/** How `lps` ends. A signal that stopped it gives 128 + its number, as shells do. */
export const exitCodes = { ok: 0, failure: 1, usage: 2 } as const;

/** Codes that blame how the command was called, not what it met. */
const usageCodes = ['CONFIG_INVALID', 'INVALID_ARGUMENT', 'INVALID_KEY', 'INVALID_METADATA', 'INVALID_CLAIM'];

/** Any thrown value as an `LpsError` whose message can be shown to a user. */
export function asLpsError(error: unknown): LpsError {
  if (isLpsError(error)) return error;
  if (error instanceof CommanderError) return new LpsError('INVALID_ARGUMENT', usageMessage(error.message));
  if (!(error instanceof Error)) return new LpsError('INTERNAL', 'something unexpected went wrong', { cause: error });
  if (error.name === 'AbortError') return new LpsError('ABORTED', 'stopped', { cause: error });
  return new LpsError('INTERNAL', `something unexpected went wrong: ${firstLine(error.message)}`, { cause: error });
}

export function exitCodeOf(error: LpsError): number {
  return usageCodes.includes(error.code) ? exitCodes.usage : exitCodes.failure;
}

/** One line, `lps: message (CODE)`; several wrong settings get a line each below it. Never a stack trace. */
export function describeFailure(error: LpsError): string {
  const { problems } = error.details;
  if (!Array.isArray(problems) || problems.length < 2) return `lps: ${escapeControls(error.message)} (${error.code})\n`;
  const lines = problems.map((problem) => `  ${escapeControls(String(problem))}\n`);
  return `lps: ${problems.length} settings are wrong (${error.code})\n${lines.join('')}`;
}

/** commander writes `error: unknown option '--prot'\n(Did you mean --port?)`. */
function usageMessage(message: string): string {
  return message
    .replace(/^error: /, '')
    .replace(/\s*\(Did you mean (one of )?([^?]+)\?\)/, (_match, several: string | undefined, names: string) =>
      several === undefined ? `; did you mean ${names}?` : `; did you mean one of ${names}?`,
    )
    .trim();
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? '';
}
