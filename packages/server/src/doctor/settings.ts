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

function access({ host, port, auth, tlsCert, tlsTerminatedUpstream }: Config): Finding[] {
  const place = `listens on ${host}:${port}`;
  if (isLoopback(host)) return [ok('settings.access', `${place}, this machine only`)];
  if (auth === 'none') {
    const todo = 'add --auth required and TLS, or let only your workers reach the port (firewall, network policy)';
    return [
      warn(
        'settings.access',
        `${place} and asks nobody who they are: whoever reaches it reads and writes every blob`,
        todo,
      ),
    ];
  }
  if (tlsCert !== undefined || tlsTerminatedUpstream)
    return [ok('settings.access', `${place}, with authentication and TLS`)];
  const todo = 'add --tls-cert and --tls-key, or a proxy that does TLS and --tls-terminated-upstream';
  return [warn('settings.access', `${place}: tokens cross the network in the clear`, todo)];
}

function memoryStore({ store }: Config): Finding[] {
  if (store !== 'memory') return [];
  return [warn('settings.memory-store', 'store memory: every blob is gone with the process', 'use it for trials only')];
}
