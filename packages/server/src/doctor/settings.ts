import { isLoopback } from '../config/checks.js';
import type { Config } from '../config/settings.js';
import { type Finding, fail, ok, warn } from './finding.js';

/** What is wrong with settings that could not be loaded. */
export function judgeProblems(problems: readonly string[]): Finding[] {
  const todo = '"lps help serve" lists the settings, "lps config print" where each value comes from';
  return problems.map((problem) => fail('settings.valid', problem, todo));
}

export function judgeSettings(config: Config): Finding[] {
  return [ok('settings.valid', 'the settings are right'), ...access(config), ...memoryStore(config)];
}

function access({ host, port }: Config): Finding[] {
  if (isLoopback(host)) return [ok('settings.access', `listens on ${host}:${port}, this machine only`)];
  const seen = `listens on ${host}:${port} and asks nobody who they are: whoever reaches it reads and writes every blob`;
  return [
    warn(
      'settings.access',
      seen,
      'let only your workers reach the port (firewall, network policy), or listen on 127.0.0.1',
    ),
  ];
}

function memoryStore({ store }: Config): Finding[] {
  if (store !== 'memory') return [];
  return [warn('settings.memory-store', 'store memory: every blob is gone with the process', 'use it for trials only')];
}
