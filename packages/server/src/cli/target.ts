/** Which store a command works on: a running service, or the store itself. */
import { type BlobStore, isLpsError, LpsError } from '@large-payload/core';
import { type Command, Option } from 'commander';
import { places } from '../config/checks.js';
import { configInvalid, loadConfig } from '../config/load.js';
import { type Config, type Setting, settings } from '../config/settings.js';
import { openService, openStore } from '../open-store.js';
import { serviceToken, tokenHelp } from './service-token.js';
import { addSettings, givenSettings, type SettingFlags } from './setting-options.js';
import type { Terminal } from './terminal.js';

export const defaultUrl = 'http://127.0.0.1:8577';

/** Help for the end of a command's page. */
export const targetHelp = `
Where the blobs are:
  Without further options the service at ${defaultUrl} is asked; --url names another one.
  ${tokenHelp}
  With --store, --data-dir, --s3-bucket, --gcs-bucket or --azure-container (or their variables)
  the command works straight on the store and needs no service. That is safe while a service runs
  on the same store: it takes up what it finds there.`;

/** Settings that name a place where blobs are. */
const placeSettings = ['store', 'dataDir', ...places.map(({ setting }) => setting)] as const;

/** A store, and the settings that apply to the command. */
export interface Target {
  readonly store: BlobStore;
  readonly config: Config;
}

/** Adds `--url` and the settings of stores to a command. */
export function addTarget(command: Command): Command {
  command.addOption(
    new Option('--url <URL>', `The service to ask.\n[LPS_URL; default: ${defaultUrl}]`).helpGroup('Service:'),
  );
  return addSettings(command, isReadByCommands).addHelpText('after', targetHelp);
}

export function isReadByCommands(setting: Setting): boolean {
  return setting.group === 'Storage' || isOfStore(setting) || setting.flag === 'max-blob-bytes';
}

function isOfStore({ group }: Setting): boolean {
  return places.some((place) => place.group === group);
}

/** Opens the store that a command's options name, runs it on that, and lets go of it. */
export async function withTarget<T>(
  command: Command,
  terminal: Terminal,
  run: (target: Target) => Promise<T>,
): Promise<T> {
  const flags = givenSettings(command);
  const { config, sources } = loadConfig({ flags, env: terminal.env, cwd: terminal.cwd });
  const named = placeSettings
    .map((name) => sources[name])
    .filter(({ kind, name }) => kind !== 'default' && name !== 'BUCKET');
  const url = urlFor(command, terminal, flags, named.length > 0);
  if (url === undefined && config.store === 'memory') {
    throw configInvalid(['the memory store is gone when this command ends; name a running service with --url']);
  }
  const store = url === undefined ? await openStore(config) : await openService(url, serviceToken(terminal));
  try {
    return await run({ store, config });
  } catch (error) {
    throw url !== undefined && isLpsError(error, 'SERVICE_UNREACHABLE') && isNobodyThere(error)
      ? unreachable(url, error)
      : error;
  } finally {
    await store.close?.();
  }
}

/** A flag beats a variable, and a service beats the store. `undefined`: straight on the store. */
function urlFor(command: Command, terminal: Terminal, flags: SettingFlags, isStoreNamed: boolean): string | undefined {
  const given = command.getOptionValue('url') as string | undefined;
  const storeFlag = placeSettings.map((name) => settings[name].flag).find((flag) => flags[flag] !== undefined);
  if (given !== undefined && storeFlag !== undefined) {
    throw configInvalid([`--url and --${storeFlag} name two places; keep one`]);
  }
  if (given !== undefined) return checkedUrl(given, '--url');
  if (storeFlag !== undefined) return undefined;
  if (terminal.env.LPS_URL) return checkedUrl(terminal.env.LPS_URL, 'LPS_URL');
  return isStoreNamed ? undefined : defaultUrl;
}

/** Throws CONFIG_INVALID. */
export function checkedUrl(text: string, givenBy: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isRight = url !== undefined && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '';
  // not repeated: it may hold a password
  if (!isRight) throw configInvalid([`${givenBy}: not the URL of a service, such as ${defaultUrl}`]);
  return text.replace(/\/+$/, '');
}

/** Whether there was no connection at all, as opposed to one that broke or to a strange answer. */
function isNobodyThere({ cause }: LpsError): boolean {
  const code = cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? '') : '';
  return ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'].includes(code);
}

export function unreachable(url: string, cause: LpsError): LpsError {
  const message = `no service answers at ${url}; start one with "lps serve", or name one with --url`;
  return new LpsError('SERVICE_UNREACHABLE', message, { cause });
}
