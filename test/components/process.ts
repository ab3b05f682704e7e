import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const maxOutputChars = 16_384;
/** A machine may give its time to others for a while. */
const stopTimeoutMs = 30_000;
/** For the last words of a process that ended, where a child of its own still holds its output. */
const lastWordsMs = 100;

export interface LoggedProcess {
  readonly pid: number;
  /** How it ended, once it has: `exit code 1`, `signal SIGKILL`. */
  readonly ended: string | undefined;
  /** The last 16 kB of stdout and stderr. */
  output(): string;
  /** SIGTERM, then SIGKILL after half a minute; resolves when the process is gone. */
  stop(): Promise<void>;
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>;
}

export interface SpawnOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** In a session and process group of its own, whose id is the pid. */
  detached?: boolean;
}

/** Spawns a process that ends with this one, however this one ends. Throws when it cannot be started at all. */
export async function spawnLogged(command: string, args: string[], options: SpawnOptions = {}): Promise<LoggedProcess> {
  const env = { ...process.env, ...options.env };
  const { detached = false } = options;
  const child = spawn(command, args, { env, detached, stdio: ['ignore', 'pipe', 'pipe'], ...cwdOf(options) });
  let tail = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-maxOutputChars);
    });
    // Neither the child nor its output keeps this process alive: a script that forgets stop() still ends.
    if (stream instanceof Socket) stream.unref();
  }
  let ended: string | undefined;
  const gone = new Promise<void>((resolve) => {
    child.once('exit', (code, signal) => {
      if (child.pid !== undefined) rmSync(pidFile(child.pid), { force: true });
      const end = (): void => {
        clearTimeout(timer);
        ended ??= signal ? `signal ${signal}` : `exit code ${code}`;
        resolve();
      };
      const timer = setTimeout(end, lastWordsMs);
      child.once('close', end);
    });
  });
  await once(child, 'spawn'); // rejects with the 'error' event
  child.unref();
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} started without a pid`);
  writeFileSync(pidFile(pid), '');

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (ended !== undefined) return;
    child.ref();
    child.kill(signal);
    const forced = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs);
    await gone;
    clearTimeout(forced);
  };
  return {
    pid,
    get ended() {
      return ended;
    },
    output: () => tail,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
  };
}

/** Asks `probe` until it answers true; an exception counts as "not yet". Throws with the output when the process ends. */
export async function waitUntilReady(
  server: LoggedProcess,
  title: string,
  probe: () => Promise<boolean>,
  timeoutMs = 60_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  let lastError: unknown;
  while (server.ended === undefined && Date.now() < deadline) {
    try {
      if (await probe()) return;
    } catch (error) {
      lastError = error;
    }
    await sleep(50);
  }
  const what = server.ended ?? `not ready after ${timeoutMs} ms`;
  await server.kill();
  throw new Error(`${title}: ${what}\n${server.output()}`, { cause: lastError });
}

const maxPortAttempts = 5;

/** Runs `start`, which picks free ports, again when another process took one of them in between. */
export async function retryTakenPorts<T>(start: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await start();
    } catch (error) {
      if (attempt === maxPortAttempts || !/address already in use/i.test(String(error))) throw error;
    }
  }
}

/**
 * Below what systems give to outgoing connections and to port 0 (Linux: from 32768): a port of those may be taken by any
 * connection before it is listened on, or while its server is away.
 */
const ports = { lowest: 10_240, highest: 32_767 } as const;

/** `count` different loopback ports that were free a moment ago, and which nobody is given by chance. */
export async function freePorts(count: number): Promise<number[]> {
  const found = new Set<number>();
  while (found.size < count) {
    const port = randomInt(ports.lowest, ports.highest + 1);
    if (await isFree(port)) found.add(port);
  }
  return [...found];
}

export async function freePort(): Promise<number> {
  const [port] = await freePorts(1);
  if (port === undefined) throw new Error('no free port');
  return port;
}

/** A new empty directory, removed after this process has ended. */
export function tempDir(prefix: string): string {
  return mkdtempSync(join(guardedRoot(), `${prefix}-`));
}

let root: string | undefined;

/**
 * One directory a process, with a guard that outlives it: test runners kill their workers, and a killed process runs no
 * 'exit' handler. The guard is a shell that waits for the end of a pipe, which comes when this process ends in whatever
 * way; then it kills the children that still run and removes the directory.
 *
 *     lps-test-Xy12Ab/pids/4711        an empty file for each child that runs
 *                     s3-Cd34Ef/       what tempDir('s3') returned
 */
function guardedRoot(): string {
  if (root !== undefined) return root;
  root = mkdtempSync(join(tmpdir(), 'lps-test-'));
  mkdirSync(join(root, 'pids'));
  if (process.platform === 'win32') return root;
  const script = 'cat; cd "$0/pids" && for pid in *; do kill -9 "$pid"; done; sleep 1; cd / && rm -rf "$0"';
  // In a group of its own: a Ctrl-C in the terminal would take the guard first.
  const guard = spawn('/bin/sh', ['-c', script, root], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  guard.unref();
  if (guard.stdin instanceof Socket) guard.stdin.unref();
  return root;
}

function pidFile(pid: number): string {
  return join(guardedRoot(), 'pids', String(pid));
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    await once(server.listen(port, '127.0.0.1'), 'listening');
  } catch (error) {
    if (error instanceof Error && 'code' in error && /^E(ADDRINUSE|ACCES)$/.test(String(error.code))) return false;
    throw error;
  }
  server.close();
  await once(server, 'close');
  return true;
}

function cwdOf({ cwd }: SpawnOptions): { cwd?: string } {
  return cwd === undefined ? {} : { cwd };
}
