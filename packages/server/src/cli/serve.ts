import type { Command } from 'commander';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/settings.js';
import { createLogger } from '../logging.js';
import { addSettings, givenSettings } from './setting-options.js';
import type { Terminal } from './terminal.js';

/** A running service. `close` makes it not ready, lets requests under way finish, and lets go of everything. */
export interface RunningService {
  /** `http://127.0.0.1:8577`, with the port that was taken. */
  readonly url: string;
  close(): Promise<void>;
}

const signalNumbers = { SIGINT: 2, SIGTERM: 15 } as const;
type StopSignal = keyof typeof signalNumbers;

/**
 * Under `npm start` a Ctrl-C arrives twice: from the terminal, and passed on by npm. Within this time they are one.
 */
const sameSignalMs = 500;

/** `lps serve` */
export function addServe(program: Command, terminal: Terminal): void {
  const command = program
    .command('serve')
    .summary('Run the service.')
    .description('Run the service until it is told to stop. Without options it listens on 127.0.0.1:8577 and keeps blobs in ./data.');
  addSettings(command)
    .addHelpText(
      'after',
      `
SIGTERM or Ctrl-C: no new requests, those under way finish, then it ends with 0. A second one ends it at once.

Examples:
  lps serve --data-dir /var/lib/lps
  lps serve --store s3 --s3-bucket my-payloads --s3-region eu-central-1
  LPS_DATABASE_URL_FILE=/run/secrets/db lps serve --config lps.yaml
`,
    )
    .action(() => {
      const { config } = loadConfig({ flags: givenSettings(command), env: terminal.env, cwd: terminal.cwd });
      return serve(config);
    });
}

async function serve(config: Config): Promise<void> {
  const log = createLogger(config);
  const stop = stopSignal((signal) => log.info(`${signal}: finishing the requests under way; once more ends at once`));
  const service = await start(config);
  log.info(`listening on ${service.url}`);
  await stop;
  await service.close();
  log.info('stopped');
}

/** Loaded only here: the other commands have no use for the service's parts. */
async function start(config: Config): Promise<RunningService> {
  const glue = '../service.js'; // in a variable only until that file is there
  const { startService } = (await import(glue)) as { startService(config: Config): Promise<RunningService> };
  return startService(config);
}

/** Resolves at the first signal to stop; the second one ends the process. */
function stopSignal(onFirst: (signal: StopSignal) => void): Promise<void> {
  let firstMs: number | undefined;
  const isUnderNpm = process.env.npm_lifecycle_event !== undefined;
  return new Promise((resolve) => {
    const onSignal = (signal: StopSignal): void => {
      const nowMs = performance.now();
      if (firstMs === undefined) {
        firstMs = nowMs;
        onFirst(signal);
        resolve();
      } else if (!isUnderNpm || nowMs - firstMs > sameSignalMs) {
        process.exit(128 + signalNumbers[signal]);
      }
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
  });
}
