/**
 * Who owns a data directory: the process that listens on `owner.sock` inside it.
 *
 * The kernel closes a listening socket with its process, however that dies, so no lock can go stale; and because the
 * socket is found by its inode, it is seen from other containers that mount the same volume, where pids mean nothing
 * and PostgreSQL's own checks are blind (a rolling update on one node). It stays owned while PostgreSQL itself is
 * down. Two processes that take over a dead socket at the same instant could both succeed, and some file systems have
 * no sockets: the advisory lock in the database decides then (embedded-postgres.ts).
 */
import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';

const socketName = 'owner.sock';
/** For a busy owner to say who it is. */
const answerMs = 5000;

/** The answer to "does a living process own this directory?" */
export type OwnerState = { readonly alive: true; readonly description: string } | { readonly alive: false };

/** What the owner holds. Not `held` where the file system has no sockets. */
export interface Ownership {
  readonly held: boolean;
  release(): Promise<void>;
}

/** Makes this process the owner of `dir` until `release`; DATA_DIR_IN_USE when another one is. */
export async function ownDataDir(dir: string, log: (line: string) => void): Promise<Ownership> {
  // A socket's path may have about 100 bytes; through the descriptor of its directory it is always short.
  const handle = await fs.open(dir, 'r');
  try {
    const server = await listenAsOwner(dir, addressIn(dir, handle.fd), log);
    const release = async () => {
      if (server !== undefined) await new Promise((resolve) => server.close(resolve)); // removes the socket as well
      await handle.close();
    };
    return { held: server !== undefined, release };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function addressIn(dir: string, fd: number): string {
  return process.platform === 'linux' ? `/proc/self/fd/${fd}/${socketName}` : join(dir, socketName);
}

async function listenAsOwner(dir: string, address: string, log: (line: string) => void): Promise<Server | undefined> {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      return await listen(address);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
        log(`no ownership socket in ${dir} (${String(error)}): the lock in the database alone guards it`);
        return undefined;
      }
    }
    const owner = await askOwner(address);
    if (owner.alive) throw dataDirInUse(dir, owner.description);
    await removeDeadSocket(dir, address);
  }
  throw dataDirInUse(dir, 'several processes are starting on it');
}

export function dataDirInUse(dir: string, owner: string): LpsError {
  return new LpsError(
    'DATA_DIR_IN_USE',
    `The data directory ${dir} is in use by another process (${owner}): stop that one, or choose another directory`,
    { details: { dataDir: dir, owner } },
  );
}

function listen(address: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end(`${describeThisProcess()}\n`);
    });
    server.once('error', reject);
    server.listen({ path: address, exclusive: true }, () => {
      server.on('error', () => undefined);
      server.unref();
      resolve(server);
    });
  });
}

/** How this process is named in messages and in `application_name` (at most 63 bytes there). */
export function describeThisProcess(): string {
  return `pid ${process.pid} on ${hostname().slice(0, 32)}`;
}

/** Whether a description is of a process of this machine that has ended. One of another machine may live. */
export function describesDeadProcess(description: string): boolean {
  const [, pid, host] = /pid (\d+) on (.*)$/.exec(description) ?? [];
  if (pid === undefined || host !== hostname().slice(0, 32)) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Moved away first and asked again: another starter may have replaced it since we found it dead. */
async function removeDeadSocket(dir: string, address: string): Promise<void> {
  const aside = `stale-${randomUUID().slice(0, 8)}.sock`;
  const moved = await fs.rename(join(dir, socketName), join(dir, aside)).then(
    () => true,
    () => false,
  );
  if (!moved) return;
  const owner = await askOwner(address.replace(socketName, aside));
  if (owner.alive) await fs.rename(join(dir, aside), join(dir, socketName));
  else await fs.rm(join(dir, aside), { force: true });
}

/** Whether a living process owns `dir`; it need not be ours. */
export async function findOwner(dir: string): Promise<OwnerState> {
  const handle = await fs.open(dir, 'r');
  try {
    return await askOwner(addressIn(dir, handle.fd));
  } finally {
    await handle.close();
  }
}

async function askOwner(address: string): Promise<OwnerState> {
  for (let attempt = 0; ; attempt++) {
    const answer = await connectOnce(address);
    if (answer !== 'refused') return answer === 'absent' ? { alive: false } : { alive: true, description: answer.text };
    // Between bind and listen a living owner refuses as well, for microseconds.
    if (attempt === 1) return { alive: false };
    await delay(20);
  }
}

function connectOnce(address: string): Promise<'absent' | 'refused' | { text: string }> {
  return new Promise((resolve) => {
    let text = '';
    const described = () => ({ text: text.replace(/[^ -~]/g, '').slice(0, 80) || 'which does not answer' });
    const socket = connect(address);
    socket.setEncoding('utf8');
    socket.setTimeout(answerMs, () => {
      socket.destroy();
      resolve(described()); // accepted by the kernel: the process is there, but busy
    });
    socket.on('data', (chunk: string) => {
      text += chunk;
      if (text.length > 200) socket.destroy();
    });
    socket.on('close', () => resolve(described()));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') resolve('absent');
      else if (error.code === 'ECONNREFUSED') resolve('refused');
      else resolve({ text: `unknown, ${error.code}` });
    });
  });
}
