/** A server that begins to listen, with words for what goes wrong, and that ends without cutting off who is being answered. */
import type { AddressInfo } from 'node:net';
import { LpsError } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';

export interface Place {
  readonly port: number;
  readonly host: string;
}

/** Throws CONFIG_INVALID. */
export async function listen(server: FastifyInstance, { port, host }: Place): Promise<void> {
  try {
    // fastify logs this line for each address
    await server.listen({ port, host, listenTextResolver: (url) => `listening on ${url}` });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const reasons: Record<string, string> = {
      EADDRINUSE: `port ${port} is in use; choose another one with --port, or end the program that has it`,
      EACCES: `port ${port} needs rights that this user does not have; choose one above 1023 with --port`,
      EADDRNOTAVAIL: `${host} is not an address of this machine; change --host`,
      ENOTFOUND: `${host} is not known; change --host`,
    };
    const reason = reasons[code ?? ''] ?? `cannot listen on ${host}:${port}: ${code}`;
    throw new LpsError('CONFIG_INVALID', reason, { cause });
  }
}

/** `http://127.0.0.1:8577`, with the port that was taken. */
export function addressOf(server: FastifyInstance, host: string, isTls: boolean): string {
  const { port } = server.server.address() as AddressInfo;
  return `${isTls ? 'https' : 'http'}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Lets requests under way finish, for so long; then cuts what is left. */
export async function drain(server: FastifyInstance, timeoutMs: number): Promise<void> {
  const timer = setTimeout(() => server.server.closeAllConnections(), timeoutMs);
  // a connection whose request began before, and was answered since, is kept alive by its client
  const idle = setInterval(() => server.server.closeIdleConnections(), 50);
  try {
    await server.close();
  } finally {
    clearTimeout(timer);
    clearInterval(idle);
  }
}
