/**
 * From flags, environment and file to the configuration, or to a list of everything that is wrong with it.
 *
 * Precedence: flags > environment > file > variables of other programs (`also`) > defaults.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LpsError } from '@large-payload/core';
import { configProblems, groupOfStore, isLoopback } from './checks.js';
import { type FileEntry, parseConfigFile } from './config-file.js';
import {
  allSettings,
  type Config,
  envOf,
  type Setting,
  type SettingName,
  type Source,
  type Values,
} from './settings.js';
import { didYouMean } from './suggestion.js';

export interface LoadOptions {
  /** What the command line gave: name without dashes → text; a yes-or-no flag is `true` or `false`. `config` names a file. */
  readonly flags?: Readonly<Record<string, string | boolean>>;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Throws when a file cannot be read. */
  readonly readFile?: (path: string) => string;
  /** Where relative paths start. */
  readonly cwd?: string;
}

export interface Loaded {
  readonly config: Config;
  readonly sources: Readonly<Record<SettingName, Source>>;
}

/** A value as it was given. */
interface Given {
  readonly text: string;
  readonly source: Source;
}

interface Inputs {
  readonly flags: Readonly<Record<string, string | boolean>>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly file: ReadonlyMap<string, Given>;
  readonly readFile: (path: string) => string;
  readonly cwd: string;
  readonly problems: string[];
}

/** The flag and the variable that name the configuration file; they are not settings themselves. */
const configFlag = 'config';
const configEnv = 'LPS_CONFIG';
/** Variables that are no settings: the file, and what the other commands read. */
const otherEnv: readonly string[] = [configEnv, 'LPS_URL', 'LPS_TOKEN', 'LPS_TOKEN_FILE'];

/** Of the Web UI of `temporal server start-dev`. */
const developmentOrigin = 'http://localhost:8233';

/** The one way to a configuration. Throws CONFIG_INVALID with every problem in `details.problems`. */
export function loadConfig(options: LoadOptions = {}): Loaded {
  const problems: string[] = [];
  const base = {
    flags: options.flags ?? {},
    env: options.env ?? process.env,
    readFile: options.readFile ?? ((path: string) => readFileSync(path, 'utf8')),
    cwd: options.cwd ?? process.cwd(),
    problems,
  };
  const inputs: Inputs = { ...base, file: readConfigFile(base) };
  problems.push(...unknownFlags(inputs.flags), ...unknownVariables(inputs.env));

  const values: Partial<Record<SettingName, unknown>> = {};
  const sources = {} as Record<SettingName, Source>;
  for (const [name, setting] of allSettings) {
    const given = findGiven(setting, inputs);
    sources[name] = given.source;
    if (given.text === undefined) continue;
    // a variable of another program may mean something else there; it matters only to the store that reads it
    const isForeign = given.source.kind === 'env' && (setting.also ?? []).includes(given.source.name);
    const ignored = isForeign && setting.group !== groupOfStore(values.store) ? [] : problems;
    values[name] = readValue(setting, given.text, given.source, ignored);
  }
  // what could not be read is in `problems` already; the checks look only at what is there
  problems.push(...configProblems(values as Partial<Values>, sources));
  if (problems.length > 0) throw configInvalid(problems);
  return { config: completed(values as unknown as Values, inputs.cwd), sources };
}

/** CONFIG_INVALID: one line for one problem, and all of them in `details.problems`. */
export function configInvalid(problems: readonly string[]): LpsError {
  const message =
    problems.length === 1 ? (problems[0] ?? '') : `${problems.length} settings are wrong: ${problems.join('; ')}`;
  return new LpsError('CONFIG_INVALID', message, { details: { problems } });
}

function completed(values: Values, cwd: string): Config {
  const dataDir = resolve(cwd, values.dataDir);
  const far = values.store !== 'file' && values.store !== 'memory';
  const { corsOrigins, authJwks } = values;
  return {
    ...values,
    dataDir,
    cacheDir: values.cacheDir === undefined ? join(dataDir, 'cache') : resolve(cwd, values.cacheDir),
    cacheMemoryBytes: values.cacheMemoryBytes ?? (far ? 128 * 1024 * 1024 : 0),
    ...resolved(values, ['tlsCert', 'tlsKey', 'authPolicy', 'auditLog', 'clusters', 'takedownKey'], cwd),
    authJwks: authJwks === undefined || /^https?:/i.test(authJwks) ? authJwks : resolve(cwd, authJwks),
    corsOrigins:
      corsOrigins.length === 0 && isLoopback(values.host)
        ? [developmentOrigin]
        : corsOrigins.map((origin) => new URL(origin).origin),
  };
}

/** Paths that were given, from where relative ones start. */
function resolved<Name extends 'tlsCert' | 'tlsKey' | 'authPolicy' | 'auditLog' | 'clusters' | 'takedownKey'>(
  values: Values,
  names: readonly Name[],
  cwd: string,
): { readonly [N in Name]: string | undefined } {
  const paths = names.map((name) => [name, values[name] === undefined ? undefined : resolve(cwd, values[name])]);
  return Object.fromEntries(paths) as { readonly [N in Name]: string | undefined };
}

function findGiven(setting: Setting, inputs: Inputs): { text?: string; source: Source } {
  const flag = inputs.flags[setting.flag];
  if (flag !== undefined) return { text: String(flag), source: { kind: 'flag', name: flagText(setting.flag, flag) } };
  return (
    fromEnvironment(setting, inputs) ??
    inputs.file.get(setting.flag) ??
    fromOtherPrograms(setting, inputs) ?? {
      ...(setting.default === undefined ? {} : { text: setting.default }),
      source: { kind: 'default', name: 'default' },
    }
  );
}

function flagText(flag: string, value: string | boolean): string {
  return value === false ? `--no-${flag}` : `--${flag}`;
}

/** An empty variable counts as not set: compose files and charts write such ones for "no value". */
function fromEnvironment(setting: Setting, inputs: Inputs): Given | undefined {
  const name = envOf(setting);
  const text = inputs.env[name] || undefined;
  const path = setting.secret ? inputs.env[`${name}_FILE`] || undefined : undefined;
  if (text !== undefined && path !== undefined) {
    inputs.problems.push(`${name} and ${name}_FILE are both set; keep one`);
  }
  if (text !== undefined) {
    return isFromKubernetes(name, text) ? undefined : { text, source: { kind: 'env', name } };
  }
  if (path === undefined) return undefined;
  const content = readOrExplain(path, `${name}_FILE`, inputs);
  return content === undefined ? undefined : { text: content.trim(), source: { kind: 'env', name: `${name}_FILE` } };
}

function fromOtherPrograms(setting: Setting, inputs: Inputs): Given | undefined {
  for (const name of setting.also ?? []) {
    const text = inputs.env[name];
    if (text) return { text, source: { kind: 'env', name } };
  }
  return undefined;
}

function readValue(setting: Setting, text: string, source: Source, problems: string[]): unknown {
  const parsed = setting.kind.schema.safeParse(text);
  if (parsed.success) return parsed.data;
  const shown = setting.secret ? 'the value' : quoted(text);
  problems.push(`${placeOf(setting, source)}: ${shown} is not ${setting.kind.expects}`);
  return undefined;
}

/** Where a problem is: `--port`, `LPS_PORT`, `lps.yaml:3: port`. */
function placeOf(setting: Setting, source: Source): string {
  return source.kind === 'file' ? `${source.name}: ${setting.flag}` : source.name;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);
}

type FileInputs = Omit<Inputs, 'file'>;

function readConfigFile(inputs: FileInputs): Map<string, Given> {
  const given = new Map<string, Given>();
  const flag = inputs.flags[configFlag];
  const path = typeof flag === 'string' ? flag : inputs.env[configEnv] || undefined;
  if (path === undefined) return given;
  const content = readOrExplain(path, typeof flag === 'string' ? `--${configFlag}` : configEnv, inputs);
  if (content === undefined) return given;
  const { entries, problems } = parseConfigFile(path, content);
  inputs.problems.push(...problems);
  for (const entry of entries) addEntry(entry, path, given, inputs.problems);
  return given;
}

function addEntry(entry: FileEntry, path: string, given: Map<string, Given>, problems: string[]): void {
  const place = `${path}:${entry.line}`;
  const known = allSettings.map(([, setting]) => setting.flag);
  const setting = allSettings.find(([, { flag }]) => flag === entry.name)?.[1];
  if (setting === undefined) {
    problems.push(`${place}: no such setting: ${quoted(entry.name)}${didYouMean(entry.name, known)}`);
  } else if (entry.text === undefined || (entry.isList && !setting.kind.isList)) {
    problems.push(`${place}: ${entry.name} has no plain value; write one behind the colon, or remove the line`);
  } else {
    given.set(entry.name, { text: entry.text, source: { kind: 'file', name: place } });
  }
}

const fileReasons: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist',
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
};

function readOrExplain(path: string, givenBy: string, inputs: FileInputs): string | undefined {
  try {
    return inputs.readFile(resolve(inputs.cwd, path));
  } catch (error) {
    const errno = (error as NodeJS.ErrnoException).code;
    const why = fileReasons[errno ?? ''] ?? errno ?? 'unknown error';
    inputs.problems.push(`${givenBy}: the file ${quoted(path)} cannot be read: ${why}`);
    return undefined;
  }
}

function unknownFlags(flags: Readonly<Record<string, unknown>>): string[] {
  const known = [configFlag, ...allSettings.map(([, setting]) => setting.flag)];
  return Object.keys(flags)
    .filter((flag) => !known.includes(flag))
    .map(
      (flag) =>
        `no such flag: --${flag}${didYouMean(
          flag,
          known.map((name) => `--${name}`),
        )}`,
    );
}

function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = allSettings.flatMap(([, setting]) => {
    const name = envOf(setting);
    return setting.secret ? [name, `${name}_FILE`] : [name];
  });
  return Object.keys(env)
    .filter((name) => name.startsWith('LPS_') && !known.includes(name) && !otherEnv.includes(name))
    .filter((name) => !isOfTheTests(name) && !isFromKubernetes(name, env[name] ?? ''))
    .map((name) => `no such environment variable: ${name}${fileHint(name, known) ?? didYouMean(name, known)}`);
}

function fileHint(name: string, known: readonly string[]): string | undefined {
  const base = name.endsWith('_FILE') ? name.slice(0, -'_FILE'.length) : undefined;
  return base !== undefined && known.includes(base)
    ? `; only secrets are read from files, so set ${base} itself`
    : undefined;
}

/** The test suite has variables of its own, and starts services that inherit them. */
function isOfTheTests(name: string): boolean {
  return name === 'LPS_REQUIRE' || name.startsWith('LPS_TEST_');
}

/**
 * Kubernetes gives every pod variables for each Service: for one called "lps" LPS_SERVICE_HOST, LPS_PORT_8577_TCP, and
 * LPS_PORT=tcp://10.0.0.1:8577, which is a name of ours with a value that is never meant for us.
 */
function isFromKubernetes(name: string, value: string): boolean {
  if (/_SERVICE_(HOST|PORT(_\w+)?)$/.test(name) || /_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/.test(name))
    return true;
  return name.endsWith('_PORT') && /^(tcp|udp|sctp):\/\//.test(value);
}
