import type { Loaded } from './load.js';
import { allSettings } from './settings.js';

const masked = '********';

/** One setting as `lps config print` shows it. */
export interface Shown {
  /** As in flags and files. */
  readonly name: string;
  /** As a flag would give it; `undefined` when it is not set. Secrets are masked. */
  readonly text: string | undefined;
  readonly source: string;
}

/** Every setting with its value and where that came from. */
export function shownSettings({ config, sources }: Loaded): Shown[] {
  return allSettings.map(([name, setting]) => {
    const value: unknown = config[name];
    const text = value === undefined ? undefined : setting.secret ? masked : setting.kind.format(value);
    return { name: setting.flag, text, source: sources[name].name };
  });
}

/** For people: three columns. */
export function settingsTable(loaded: Loaded): string {
  const rows = shownSettings(loaded).map(({ name, text, source }) => [name, text ?? '(not set)', source] as const);
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows
    .map(([name, text, source]) => `${name.padEnd(widths[0] ?? 0)}  ${text.padEnd(widths[1] ?? 0)}  ${source}\n`)
    .join('');
}

/** For scripts: `{"port":{"value":8577,"source":"default"},…}`; sizes in bytes, times in milliseconds. */
export function settingsJson(loaded: Loaded): string {
  const entries = allSettings.map(([name, setting]) => {
    const value: unknown = loaded.config[name] ?? null;
    const shown = setting.secret && value !== null ? masked : value;
    return [setting.flag, { value: shown, source: loaded.sources[name].name }];
  });
  return `${JSON.stringify(Object.fromEntries(entries), null, 2)}\n`;
}
