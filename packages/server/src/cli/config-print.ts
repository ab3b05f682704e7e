import type { Command } from 'commander';
import { loadConfig } from '../config/load.js';
import { settingsJson, settingsTable } from '../config/show.js';
import { addSettings, givenSettings } from './setting-options.js';
import { shown, type Terminal } from './terminal.js';

/** `lps config print` */
export function addConfig(program: Command, terminal: Terminal): void {
  const config = program.command('config').description('Look at the settings.');
  const command = config
    .command('print')
    .description(
      'Show every setting that "lps serve" would run with here, and where each one comes from: a flag, a variable, a line ' +
        'of the file, or its default. Secrets are masked.',
    )
    .option('--json', 'print JSON; sizes in bytes, times in milliseconds');
  addSettings(command).action((flags: { readonly json?: boolean }) => {
    const loaded = loadConfig({ flags: givenSettings(command), env: terminal.env, cwd: terminal.cwd });
    if (flags.json) terminal.stdout.write(settingsJson(loaded));
    else
      for (const line of settingsTable(loaded).split(/(?<=\n)/))
        terminal.stdout.write(`${shown(line.trimEnd(), terminal.stdout)}\n`);
  });
}
