/**
 * The command line `lps`. Exit codes: 0 done, 1 failed (not found, unreachable …), 2 called wrongly or wrong settings,
 * 130 and 143 stopped by a signal.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, type Help } from 'commander';
import { addCache } from './cache.js';
import { addCatalog } from './catalog.js';
import { addConfig } from './config-print.js';
import { addDoctor } from './doctor.js';
import { asLpsError, describeFailure, exitCodeOf, exitCodes } from './failure.js';
import { addGc } from './gc.js';
import { addGet } from './get.js';
import { addLs } from './ls.js';
import { addPin } from './pin.js';
import { addPut } from './put.js';
import { addScrub } from './scrub.js';
import { addServe } from './serve.js';
import { addStat } from './stat.js';
import { addTakedown } from './takedown.js';
import type { Terminal } from './terminal.js';
import { addToken } from './token.js';
import { addWorkflows } from './workflows.js';

const examples = `
Examples:
  lps serve                                    run the service, blobs in ./data
  lps put report.pdf --namespace orders        store a file, print its key
  lps get '<key or claim>' -o report.pdf       read it back
  lps help serve                               all settings of the service

Exit codes: 0 done, 1 failed, 2 called wrongly or wrong settings.`;

/** Runs a command line and says with which code the process should end. Never throws. */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  try {
    await createProgram(terminal).parseAsync([...args], { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    // help and version end so, too
    if (error instanceof CommanderError && error.exitCode === 0) return exitCodes.ok;
    // it has printed what it found
    if (error instanceof CommanderError && error.code === 'lps.findings') return exitCodes.failure;
    // no command was named; the help is on standard error already
    if (error instanceof CommanderError && error.code === 'commander.help') return exitCodes.usage;
    const failure = asLpsError(error);
    terminal.stderr.write(describeFailure(failure));
    return exitCodeOf(failure);
  }
}

/** Runs the command line of this process. */
export async function main(args: readonly string[] = process.argv.slice(2)): Promise<void> {
  // a reader that has seen enough (`lps ls | head`) is no failure
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  process.on('uncaughtException', (error) => {
    process.stderr.write(describeFailure(asLpsError(error)));
    process.exit(exitCodes.failure);
  });
  const stop = new AbortController();
  const { stdin, stdout, stderr, env } = process;
  const terminal: Terminal = { stdin, stdout, stderr, env, cwd: process.cwd(), signal: stop.signal };
  const isServing = args[0] === 'serve' || isCacheNode(args); // they have their own way to stop
  const stoppedBy = isServing ? undefined : abortOnSignals(stop);
  const code = await run(args, terminal);
  await flushed(process.stdout);
  process.exit(stoppedBy?.() ?? code);
}

/** `lps cache` itself, not what is said to a running one. */
function isCacheNode(args: readonly string[]): boolean {
  return args[0] === 'cache' && !['status', 'purge'].includes(args[1] ?? '');
}

/** Resolves when everything written so far has been handed to the system. */
function flushed(stream: NodeJS.WritableStream): Promise<void> {
  return new Promise((done) => {
    stream.write('', () => done());
  });
}

/** The first signal stops a command, which then cleans up; the code to end with is 128 + the signal's number. */
function abortOnSignals(stop: AbortController): () => number | undefined {
  let code: number | undefined;
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.on(signal, () => {
      if (code !== undefined) process.exit(code);
      code = 128 + number;
      stop.abort();
    });
  }
  return () => code;
}

function createProgram(terminal: Terminal): Command {
  const program = new Command('lps')
    .description('Large Payload Service: keeps the large payloads of Temporal workflows in a store of your own.')
    .version(version(), '--version', 'print the version')
    .helpOption('-h, --help', 'show this help')
    .addHelpText('after', examples)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.stdout.write(text),
      writeErr: (text) => terminal.stderr.write(text),
      outputError: () => {}, // `run` says it, as it says everything
    })
    .configureHelp({ helpWidth: Math.min(100, process.stdout.columns ?? 100), formatItem });
  for (const add of [
    addServe,
    addCache,
    addPut,
    addGet,
    addStat,
    addLs,
    addScrub,
    addCatalog,
    addToken,
    addGc,
    addPin,
    addTakedown,
    addWorkflows,
    addDoctor,
    addConfig,
  ])
    add(program, terminal);
  return program;
}

const termWidth = 26;

/** A flag and what it does, in two columns; a long flag has a line of its own, so that the second column stays wide. */
function formatItem(term: string, _widest: number, description: string, helper: Help): string {
  const indent = ' '.repeat(2 + termWidth + 2);
  const wrapped = helper.boxWrap(description, Math.max(30, (helper.helpWidth ?? 80) - indent.length));
  const lines = wrapped.replaceAll('\n', `\n${indent}`);
  return term.length <= termWidth ? `  ${term.padEnd(termWidth)}  ${lines}` : `  ${term}\n${indent}${lines}`;
}

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(text) as { version: string };
  return version;
}
