/** JSON over HTTP with a running service, for commands that ask it to do something. */
import http from 'node:http';
import https from 'node:https';
import { isErrorCode, isLpsError, LpsError } from '@large-payload/core';
import { type Command, Option } from 'commander';
import { serviceToken, tokenHelp } from './service-token.js';
import { checkedUrl, defaultUrl, unreachable } from './target.js';
import type { Terminal } from './terminal.js';

export interface ServiceClient {
  /** Throws what the service answers, or SERVICE_UNREACHABLE, ABORTED. */
  ask<T>(method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown): Promise<T>;
  /** The body as it is. */
  text(path: string): Promise<string>;
}

/** Adds `--url` to a command. */
export function addServiceUrl(command: Command): Command {
  return command
    .addOption(
      new Option('--url <URL>', `The service to ask.\n[LPS_URL; default: ${defaultUrl}]`).helpGroup('Service:'),
    )
    .addHelpText('after', `\n${tokenHelp}`);
}

/** Of the service that a command's options name. */
export function serviceClient(command: Command, terminal: Terminal): ServiceClient {
  const given = command.getOptionValue('url') as string | undefined;
  const [text, givenBy] = given === undefined ? [terminal.env.LPS_URL || defaultUrl, 'LPS_URL'] : [given, '--url'];
  const url = checkedUrl(text, givenBy);
  const token = serviceToken(terminal);
  const send = async (method: string, path: string, body?: unknown): Promise<string> => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const text = body === undefined ? undefined : JSON.stringify(body);
    const answer = await exchange(`${url}${path}`, method, headers, text, terminal.signal).catch((cause: unknown) => {
      if (terminal.signal.aborted) throw new LpsError('ABORTED', 'stopped', { cause });
      throw unreachable(url, new LpsError('SERVICE_UNREACHABLE', 'no connection', { cause }));
    });
    if (answer.status >= 200 && answer.status < 300) return answer.text;
    throw problemOf(answer.status, answer.text);
  };
  return {
    ask: async <T>(method: string, path: string, body?: unknown) => parsed(await send(method, path, body)) as T,
    text: (path) => send('GET', path),
  };
}

/** Without a limit of time, which `fetch` has: a service may list a bucket before it answers. */
async function exchange(
  url: string,
  method: string,
  headers: Record<string, string>,
  body: string | undefined,
  signal: AbortSignal,
): Promise<{ readonly status: number; readonly text: string }> {
  const { request } = url.startsWith('https:') ? https : http;
  const content =
    body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request(url, { method, headers: { ...headers, ...content }, signal }, resolve)
      .once('error', reject)
      .end(body);
  });
  const parts: Buffer[] = [];
  for await (const part of answer) parts.push(part as Buffer);
  return { status: answer.statusCode ?? 0, text: Buffer.concat(parts).toString('utf8') };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new LpsError('SERVICE_UNREACHABLE', 'what answers there is not this service', { cause });
  }
}

function problemOf(status: number, text: string): LpsError {
  try {
    const { code, detail } = JSON.parse(text) as { readonly code?: unknown; readonly detail?: unknown };
    if (isErrorCode(code)) return new LpsError(code, typeof detail === 'string' ? detail : code);
  } catch (error) {
    if (isLpsError(error)) throw error;
  }
  return new LpsError('SERVICE_UNREACHABLE', `the service answered ${status} with something that is not its own`);
}
