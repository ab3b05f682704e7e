import type { Command } from 'commander';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/settings.js';
import { createLogger } from '../logging.js';
import { addSettings, givenSettings } from './setting-options.js';
import { stopSignal } from './stop-signal.js';
import type { Terminal } from './terminal.js';

/** `lps serve` */
export function addServe(program: Command, terminal: Terminal): void {
  const command = program
    .command('serve')
    .summary('Run the service.')
    .description(
      'Run the service until it is told to stop. Without options it listens on 127.0.0.1:8577 and keeps blobs in ./data.',
    );
  addSettings(command, ({ group }) => group !== 'Cache node')
    .addHelpText(
      'after',
      `
SIGTERM or Ctrl-C: no new requests, those under way finish, then it ends with 0. A second one ends
it at once.

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
  // the line on standard error says that much too; the log keeps the place in the code, for whoever mends it
  process.prependListener('uncaughtException', (error) => log.fatal({ err: error }, 'the service ends: a defect'));
  const stop = stopSignal((signal) => log.info(`${signal}: finishing the requests under way; once more ends at once`));
  // loaded only here: the other commands have no use for the parts of the service
  const { startService } = await import('../service.js');
  const service = await startService(config, log);
  await stop;
  await service.close();
  log.info('stopped');
}
