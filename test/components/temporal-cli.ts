import { execFile } from 'node:child_process';
import { requireOrSkip } from './require.ts';
import type { TemporalServer } from './temporal.ts';

const timeoutMs = 30_000;
const maxOutputBytes = 64 << 20;

export interface CliResult {
  /** `null` when it was ended by force, after half a minute. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `temporal ARGS…` on one server and namespace; never rejects because of what the command does. */
export type TemporalCli = (...args: readonly string[]) => Promise<CliResult>;

/** Temporal's command line, or undefined where there is none (see requireOrSkip). */
export function temporalCli({ address, namespace }: TemporalServer): TemporalCli | undefined {
  const binary = requireOrSkip('temporal-cli');
  if (binary === undefined) return undefined;
  // nothing of the user's own configuration
  const where = ['--address', address, '--namespace', namespace, '--disable-config-file', '--disable-config-env'];
  return (...args) =>
    new Promise((resolve) => {
      const options = { timeout: timeoutMs, maxBuffer: maxOutputBytes };
      const child = execFile(binary, [...args, ...where, '--color', 'never'], options, (_error, stdout, stderr) =>
        resolve({ code: child.exitCode, stdout, stderr }),
      );
    });
}
