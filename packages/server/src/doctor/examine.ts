/**
 * Runs every check, each with its own time, and none of them stops another:
 *
 *   settings ─ data directory ─┬─ store ────┬─ do they belong together?
 *                              └─ Postgres ─┘
 *   runtime, limits, service, project           beside them
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/settings.js';
import { dataDirFacts, judgeDataDir, usesDataDir } from './data-dir.js';
import { type Finding, fail, findingKinds, ok } from './finding.js';
import { defaultThresholdBytes, judgeLimits } from './limits.js';
import type { PostgresFacts } from './postgres-facts.js';
import { lookAtPostgres } from './postgres-target.js';
import { judgeProject } from './project.js';
import { type ProjectGraph, readProjectGraph } from './project-graph.js';
import { judgeRuntime, type RuntimeFacts, runtimeFacts } from './runtime.js';
import { checkService } from './service.js';
import { judgeProblems, judgeSettings } from './settings.js';
import { checkOwner, checkStore } from './store.js';
import { messageOf } from './words.js';

export interface Examination {
  /** The settings, or what is wrong with them: then what depends on them is not looked at. */
  readonly settings: Config | { readonly problems: readonly string[] };
  /** A worker project to look at. */
  readonly projectDir?: string;
  /** Of a running service. */
  readonly url?: string;
  /** Of that service. */
  readonly token?: string;
  /** Default: that of codec, driver and plugin. */
  readonly thresholdBytes?: number;
  readonly signal?: AbortSignal;
  /** For tests: another machine. */
  readonly runtime?: RuntimeFacts;
  /** For one check. Default 60 s. */
  readonly timeoutMs?: number;
}

type Check = (signal: AbortSignal) => Promise<readonly Finding[]>;
type RunCheck = (name: string, check: Check) => Promise<readonly Finding[]>;

/** An embedded database may have to recover first. */
const defaultTimeoutMs = 60_000;
/** For a check that is told to end, to clean up. */
const cleanUpMs = 15_000;

/** Every finding, in the order of the table of kinds. Throws nothing. */
export async function examine(examination: Examination): Promise<Finding[]> {
  const { settings, projectDir, url, token, signal, timeoutMs = defaultTimeoutMs } = examination;
  const { thresholdBytes = defaultThresholdBytes } = examination;
  const config = 'problems' in settings ? undefined : settings;
  const runtime = examination.runtime ?? runtimeFacts();
  const within: RunCheck = (name, check) => runCheck(name, check, timeoutMs, signal);
  const checks = [
    within('settings', async () =>
      'problems' in settings ? judgeProblems(settings.problems) : judgeSettings(settings),
    ),
    within('the runtime', async () => judgeRuntime(runtime, config)),
  ];
  if (config !== undefined) {
    const { maxBlobBytes } = config;
    checks.push(checkPlaces(config, within));
    checks.push(within('limits', async () => judgeLimits({ thresholdBytes, maxBlobBytes })));
  }
  if (url !== undefined) checks.push(within('the service', (ended) => checkService(url, token, ended)));
  if (projectDir !== undefined) {
    checks.push(within('the project', (ended) => checkProject(projectDir, runtime.nodeVersion, ended)));
  }
  const order = Object.keys(findingKinds);
  const found = (await Promise.all(checks)).flat();
  return found.sort((a, b) => order.indexOf(a.id) - order.indexOf(b.id));
}

/** Runs a check to its end, or to the end of its time; throws nothing. */
async function runCheck(
  name: string,
  check: Check,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<readonly Finding[]> {
  const timeout = AbortSignal.timeout(timeoutMs);
  const either = signal === undefined ? timeout : AbortSignal.any([timeout, signal]);
  const ended = new Promise<never>((_resolve, reject) => {
    either.addEventListener('abort', () => reject(either.reason), { once: true });
  });
  ended.catch(() => undefined);
  const running = check(either);
  try {
    return await Promise.race([running, ended]);
  } catch (error) {
    const settled = running.catch(() => undefined);
    if (either.aborted) await Promise.race([settled, delay(cleanUpMs, undefined, { ref: false })]);
    const seen = timeout.aborted ? `was not done after ${timeoutMs / 1000} s` : `broke off: ${messageOf(error)}`;
    const todo = 'try again; when it stays so, look at what it talks to, or report it';
    return [fail('doctor.unfinished', `the check of ${name} ${seen}`, todo)];
  }
}

/** The data directory first, as it is before anything is tried; then database and store at once, and whether they belong together. */
async function checkPlaces(config: Config, within: RunCheck): Promise<readonly Finding[]> {
  const dataDir = usesDataDir(config)
    ? await within('the data directory', async () => judgeDataDir(await dataDirFacts(config.dataDir), config))
    : [];
  // one cause is one finding: neither database nor files can be where nothing can be written
  const isUsable = !dataDir.some(({ id, severity }) => id === 'data-dir.writable' && severity === 'fail');
  const isDatabaseHere = config.databaseUrl === undefined && config.store !== 'memory';
  const isStoreHere = config.store === 'file';

  let facts: PostgresFacts | undefined;
  const lookAtDatabase: Check = async (signal) => {
    const look = await lookAtPostgres(config, signal);
    facts = look.facts;
    return look.findings;
  };
  const hasDatabase = isUsable || !isDatabaseHere;
  const hasStore = config.store !== 'memory' && (isUsable || !isStoreHere);
  const [database, store] = await Promise.all([
    hasDatabase ? within('Postgres', lookAtDatabase) : [],
    hasStore ? within('the store', (signal) => checkStore(config, { signal })) : [],
  ]);
  const areReached = facts !== undefined && store.some(({ id, severity }) => id === 'store.reach' && severity === 'ok');
  const owner = areReached ? await within('the catalog', () => checkOwner(config, facts?.catalogId)) : [];
  return [...dataDir, ...database, ...store, ...owner];
}

async function checkProject(dir: string, nodeVersion: string, signal: AbortSignal): Promise<Finding[]> {
  let graph: ProjectGraph;
  try {
    graph = await readProjectGraph(dir, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    const seen = `${dir} holds no package.json that can be read: ${messageOf(error)}`;
    return [fail('project.readable', seen, 'name the directory of the worker project with --project')];
  }
  return [ok('project.readable', graph.root.dir), ...judgeProject(graph, nodeVersion)];
}
