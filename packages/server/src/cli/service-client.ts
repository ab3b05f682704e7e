/** JSON over HTTP with a running service, for commands that ask it to do something. */
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
    const headers = {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    };
    const init = {
      method,
      headers,
      signal: terminal.signal,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    };
    const answer = await fetch(`${url}${path}`, init).catch((cause: unknown) => {
      if (terminal.signal.aborted) throw new LpsError('ABORTED', 'stopped', { cause });
      throw unreachable(url, new LpsError('SERVICE_UNREACHABLE', 'no connection', { cause }));
    });
    const content = await answer.text();
    if (answer.ok) return content;
    throw problemOf(answer.status, content);
  };
  return {
    ask: async <T>(method: string, path: string, body?: unknown) => parsed(await send(method, path, body)) as T,
    text: (path) => send('GET', path),
  };
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
