/** A running service, asked as its clients would. */
import { isLpsError } from '@large-payload/core';
import { openService } from '../open-store.js';
import { version as ourVersion } from '../version.js';
import { judgeClock } from './clock.js';
import { type Finding, fail, ok, warn } from './finding.js';
import { messageOf } from './words.js';

export async function checkService(url: string, token: string | undefined, signal: AbortSignal): Promise<Finding[]> {
  let answer: Response;
  const sentAt = Date.now();
  try {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    answer = await fetch(`${url}/version`, { signal, redirect: 'manual', headers });
  } catch (error) {
    const cause = (error as Error).cause ?? error;
    const seen = `no service answers at ${url}: ${messageOf(cause)}`;
    return [fail('service.reach', seen, 'start one with "lps serve", or correct --url')];
  }
  const askedAt = (sentAt + Date.now()) / 2;
  if (answer.status === 401) {
    const seen = token === undefined ? 'the service wants a token' : 'the service refuses the token';
    return [fail('service.token', seen, 'make one with "lps token create", and give it in LPS_TOKEN')];
  }
  const version = await versionOf(answer);
  if (version === undefined) {
    const seen = `what answers at ${url} is no Large Payload Service (${answer.status})`;
    return [fail('service.reach', seen, 'correct --url, and look at the proxies in between')];
  }
  return [
    ok('service.reach', `${url} answers`),
    judgeVersion(version),
    await readiness(url, signal),
    ...judgeClock('service.clock', 'the service', skewOf(answer, askedAt)),
  ];
}

async function versionOf(answer: Response): Promise<string | undefined> {
  try {
    const { name, version } = (await answer.json()) as { name?: unknown; version?: unknown };
    return name === 'large-payload-service' && typeof version === 'string' ? version : undefined;
  } catch {
    return undefined;
  }
}

function judgeVersion(version: string): Finding {
  if (version === ourVersion) return ok('service.version', `version ${version}`);
  const seen = `the service is version ${version}, this program ${ourVersion}`;
  return warn('service.version', seen, 'use the same version for both');
}

async function readiness(url: string, signal: AbortSignal): Promise<Finding> {
  const service = await openService(url);
  try {
    await service.ready?.({ signal });
    return ok('service.ready', 'is ready');
  } catch (error) {
    const code = isLpsError(error) ? ` (${error.code})` : '';
    const todo = 'run "lps doctor" with the settings of that service, where it runs; its log says more, too';
    return fail('service.ready', `the service is not ready: ${messageOf(error)}${code}`, todo);
  } finally {
    await service.close?.();
  }
}

function skewOf({ headers }: Response, askedAt: number): number | undefined {
  const tells = Date.parse(headers.get('date') ?? '');
  // cut to the second
  return Number.isNaN(tells) ? undefined : tells + 500 - askedAt;
}
