import { type Command, Option } from 'commander';
import { allSettings, envOf, groups, type Setting } from '../config/settings.js';

/** What commander has parsed, as `loadConfig` takes it: only what the command line itself gave. */
export type SettingFlags = Readonly<Record<string, string | boolean>>;

/** Adds the settings that a command reads as options of it, grouped, each with its variable and default. */
export function addSettings(command: Command, isRead: (setting: Setting) => boolean = () => true): Command {
  for (const group of groups) {
    for (const [, setting] of allSettings) {
      if (setting.group !== group || !isRead(setting)) continue;
      for (const option of optionsOf(setting)) command.addOption(option.helpGroup(`${group}:`));
    }
  }
  return command.addOption(
    new Option('--config <file>', 'YAML file with settings, named as the flags are.\n[LPS_CONFIG]').helpGroup(
      'Settings:',
    ),
  );
}

/** The settings among a command's options that were given on the command line. */
export function givenSettings(command: Command): SettingFlags {
  const flags: Record<string, string | boolean> = {};
  for (const flag of ['config', ...allSettings.map(([, setting]) => setting.flag)]) {
    const attribute = new Option(`--${flag}`).attributeName();
    if (command.getOptionValueSource(attribute) === 'cli') flags[flag] = command.getOptionValue(attribute);
  }
  return flags;
}

/** A yes-or-no setting has two flags; help shows the one that changes something. */
function optionsOf(setting: Setting): Option[] {
  const { flag, kind } = setting;
  const variables = [envOf(setting), ...(setting.also ?? [])].join(', ');
  const standard = setting.default || setting.defaultHelp;
  const several = kind.isList ? ' May be given several times.' : '';
  const origin = standard === undefined ? `[${variables}]` : `[${variables}; default: ${standard}]`;
  if (kind.placeholder !== undefined) {
    const option = new Option(`--${flag} <${kind.placeholder}>`, `${setting.help}${several}\n${origin}`);
    return [
      kind.isList ? option.argParser((value, earlier?: string) => (earlier ? `${earlier},${value}` : value)) : option,
    ];
  }
  const isOn = setting.default === 'true';
  const off = `${setting.helpOff ?? ''}\n[${envOf(setting)}=false]`;
  return [
    new Option(`--${flag}`, `${setting.help}\n${origin}`).hideHelp(isOn),
    new Option(`--no-${flag}`, off).hideHelp(!isOn),
  ];
}
