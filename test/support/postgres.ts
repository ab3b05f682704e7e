/**
 * The embedded PostgreSQL of a running service, from outside. DATA_DIR/postgres/postmaster.pid: line 1 pid, 4 port,
 * 5 socket directory.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { until } from './until.ts';

/** The postmaster and its children; empty when there is none. */
export function postgresPids(dataDir: string): number[] {
  const postmaster = Number(pidFileLines(dataDir)[0] ?? 0);
  if (!Number.isSafeInteger(postmaster) || postmaster <= 1) return [];
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,stat='], { encoding: 'utf8' }).trim().split('\n');
  const alive = table.map((line) => line.trim().split(/\s+/)).filter(([, , stat]) => !stat?.startsWith('Z'));
  const family = alive.filter(([pid, ppid]) => Number(pid) === postmaster || Number(ppid) === postmaster);
  return family.map(([pid]) => Number(pid)).sort((a) => (a === postmaster ? -1 : 1));
}

/** Sends a signal to all of it, the postmaster first. */
export function signalPostgres(dataDir: string, signal: NodeJS.Signals): number[] {
  const pids = postgresPids(dataDir);
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // it ended with its postmaster
    }
  }
  return pids;
}

/** SIGKILL to all of it; resolves when nothing of it runs. */
export async function killPostgres(dataDir: string): Promise<void> {
  const pids = signalPostgres(dataDir, 'SIGKILL');
  await until('the end of PostgreSQL', async () => (pids.some(isAlive) ? undefined : true));
}

/** Every process that works in the cluster, whoever started it: what a stopped service must not leave. Linux only. */
export function processesIn(dataDir: string): string[] {
  if (process.platform !== 'linux') return [];
  const cluster = join(dataDir, 'postgres');
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/cwd`).startsWith(cluster);
    } catch {
      return false; // gone, or not ours
    }
  });
}

/** One statement on the catalog of a running service. */
export async function queryCatalog<Row extends pg.QueryResultRow>(
  dataDir: string,
  text: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = await connectToCatalog(dataDir);
  try {
    return (await client.query<Row>(text, values)).rows;
  } finally {
    await client.end();
  }
}

/** A connection to the catalog of a running service; the caller ends it. */
export async function connectToCatalog(dataDir: string): Promise<pg.Client> {
  const [, , , port, host] = pidFileLines(dataDir);
  const client = new pg.Client({ host: host ?? '', port: Number(port), user: 'lps', database: 'lps', ssl: false });
  await client.connect();
  return client;
}

function pidFileLines(dataDir: string): string[] {
  try {
    return readFileSync(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')
      .split('\n')
      .map((line) => line.trim());
  } catch {
    return [];
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  if (process.platform !== 'linux') return true;
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}
