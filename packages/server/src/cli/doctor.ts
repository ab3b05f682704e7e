import { resolve } from 'node:path';
import { isLpsError } from '@large-payload/core';
import { type Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { bytes, url } from '../config/kinds.js';
import { configInvalid, loadConfig } from '../config/load.js';
import type { Examination } from '../doctor/examine.js';
import { usesTemporal } from '../doctor/project-graph.js';
import { countsOf, reportJson, reportText } from '../doctor/report.js';
import { serviceToken } from './service-token.js';
import { addSettings, givenSettings } from './setting-options.js';
import type { Terminal } from './terminal.js';

interface DoctorFlags {
  readonly project?: string;
  readonly threshold?: number;
  readonly url?: string;
  readonly json?: boolean;
}

const [minWidth, maxWidth] = [60, 110];
const size = bytes(0, 1024 ** 4, '128kB');
const serviceUrl = url({
  schemes: ['http:', 'https:'],
  example: 'http://127.0.0.1:8577',
  accept: ({ username, password }) => username === '' && password === '',
});

/** `lps doctor` */
export function addDoctor(program: Command, terminal: Terminal): void {
  const command = program
    .command('doctor')
    .summary('Look for what is wrong with a set-up, and say what to do.')
    .description(
      'Look at the runtime, the data directory, the store (by storing and deleting small objects), its bucket, the ' +
        'database, the clocks, the limits and a worker project, and say what to do about what is wrong. Give it the ' +
        'settings of "lps serve", and run it where that runs; a service that runs is not disturbed.',
    )
    .option('--project <dir>', 'a worker project to look at; default: the current directory, if it uses Temporal')
    .addOption(
      new Option('--threshold <size>', 'minBytes or payloadSizeThreshold of your workers, such as 128kB').argParser(
        parseSize,
      ),
    )
    .option('--url <URL>', `a running service to ask [LPS_URL; token: LPS_TOKEN, LPS_TOKEN_FILE]`)
    .option('--json', 'print one JSON object a line, the summary last');
  const own = new Set(command.options);
  addSettings(command);
  // all of them are taken; a list as long as that of "lps help serve" would hide the four above
  for (const option of command.options) if (!own.has(option)) option.hideHelp();
  command
    .addHelpText(
      'after',
      '\nAll settings of the service are taken, too, from flags, variables and --config: "lps help serve".\n\n' +
        'Ends with 0 when nothing fails (warnings do not count), with 1 otherwise.\n',
    )
    .action((flags: DoctorFlags) => doctor(command, flags, terminal));
}

async function doctor(command: Command, flags: DoctorFlags, terminal: Terminal): Promise<void> {
  const service = flags.url ?? (terminal.env.LPS_URL || undefined);
  const token = serviceToken(terminal);
  const projectDir = await projectOf(flags, terminal.cwd);
  // loaded only here: the other commands have no use for Postgres
  const { examine } = await import('../doctor/examine.js');
  const findings = await examine({
    settings: settingsOf(command, terminal),
    signal: terminal.signal,
    ...(projectDir === undefined ? {} : { projectDir }),
    ...(service === undefined ? {} : { url: checkedUrl(service, flags.url === undefined ? 'LPS_URL' : '--url') }),
    ...(token === undefined ? {} : { token }),
    ...(flags.threshold === undefined ? {} : { thresholdBytes: flags.threshold }),
  });
  const { stdout, env } = terminal;
  // some terminals say 0, and in a narrow one long lines read better than single words
  const width = Math.max(minWidth, Math.min(maxWidth, stdout.columns || maxWidth));
  const isColoured = stdout.isTTY === true && !env.NO_COLOR && env.TERM !== 'dumb';
  stdout.write(flags.json ? reportJson(findings) : reportText(findings, { width, isColoured }));
  // the report has said it all
  if (countsOf(findings).fail > 0) throw new CommanderError(1, 'lps.findings', '');
}

function settingsOf(command: Command, { env, cwd }: Terminal): Examination['settings'] {
  try {
    return loadConfig({ flags: givenSettings(command), env, cwd }).config;
  } catch (error) {
    if (!isLpsError(error, 'CONFIG_INVALID')) throw error;
    const { problems } = error.details;
    return { problems: Array.isArray(problems) ? problems.map(String) : [error.message] };
  }
}

async function projectOf({ project }: DoctorFlags, cwd: string): Promise<string | undefined> {
  if (project !== undefined) return resolve(cwd, project);
  return (await usesTemporal(cwd)) ? cwd : undefined;
}

function parseSize(text: string): number {
  const parsed = size.schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError('It must be a size such as 128kB.');
}

/** Not repeated when it is wrong: it may hold a password. */
function checkedUrl(text: string, givenBy: string): string {
  if (serviceUrl.schema.safeParse(text).success) return text.replace(/\/+$/, '');
  throw configInvalid([`${givenBy}: not ${serviceUrl.expects}`]);
}
