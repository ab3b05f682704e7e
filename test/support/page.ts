/**
 * One page of a real browser: what is on it, and pictures of it. As chromium.ts, without a driver package: Chromium's
 * DevTools protocol over two pipes, JSON messages that end in NUL.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { skipped, tempDir } from '@large-payload/test-components';
import { until } from './until.ts';

const commands = ['chromium', 'chromium-browser', 'google-chrome'];
const fdToBrowser = 3;
const fdFromBrowser = 4;
const size = { width: 1400, height: 1600 };

export interface Page {
  open(url: string): Promise<void>;
  /** The value of an expression, once it is anything but `undefined`, `null`, `false` and ''. Throws with the page's text. */
  shows<T>(what: string, expression: string): Promise<T>;
  /** Resolves with the page's text once it has this in it. */
  says(text: string): Promise<string>;
  /** Everything readable that is on it now. */
  text(): Promise<string>;
  evaluate<T>(expression: string): Promise<T>;
  setCookie(name: string, value: string, url: string): Promise<void>;
  /** What the page has the browser save: the content of the next file. */
  saved(): Promise<string>;
  /** PNG; makes the directory. */
  screenshot(path: string): Promise<void>;
  close(): Promise<void>;
}

export interface PageOptions {
  /** Takes any certificate. */
  readonly anyCertificate?: boolean;
}

interface Message {
  readonly id?: number;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

type Ask = (method: string, params?: object) => Promise<Record<string, unknown>>;

export async function startPage({ anyCertificate = false }: PageOptions = {}): Promise<Page | undefined> {
  const command = findCommand();
  if (command === undefined) return skipped('chromium', `none of ${commands.join(', ')} is on the PATH`);
  const child = spawn(command, flags(anyCertificate), { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
  process.once('exit', () => child.kill('SIGKILL'));
  const ask = await openTarget(protocolOf(child));
  const downloads = tempDir('downloads');
  await ask('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: downloads });
  await ask('Emulation.setDeviceMetricsOverride', { ...size, deviceScaleFactor: 1, mobile: false });
  return pageOf(ask, downloads, async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
}

function pageOf(ask: Ask, downloads: string, close: () => Promise<void>): Page {
  const seen = new Set<string>();
  const evaluate = async <T>(expression: string): Promise<T> => {
    const { result, exceptionDetails } = await ask('Runtime.evaluate', {
      expression,
      returnByValue: true,
      awaitPromise: true,
    });
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return (result as { value?: unknown }).value as T;
  };
  const text = (): Promise<string> => evaluate<string>('document.body?.innerText ?? ""');
  const shows = async <T>(what: string, expression: string): Promise<T> => {
    try {
      return await until(what, async () => (await evaluate<T | undefined>(expression)) || undefined);
    } catch (cause) {
      throw new Error(`the page does not show ${what}, but:\n${(await text()).slice(0, 4000)}`, { cause });
    }
  };
  return {
    open: async (url) => {
      await ask('Page.navigate', { url });
    },
    evaluate,
    shows,
    text,
    says: async (wanted) => {
      await shows(JSON.stringify(wanted), `document.body?.innerText.includes(${JSON.stringify(wanted)})`);
      return text();
    },
    setCookie: async (name, value, url) => {
      await ask('Network.setCookie', { name, value, url });
    },
    saved: async () => {
      const isWhole = (name: string): boolean => !seen.has(name) && !/crdownload|\.tmp|^\./.test(name);
      const name = await until('a saved file', async () => readdirSync(downloads).find(isWhole));
      seen.add(name);
      return readFileSync(join(downloads, name), 'utf8');
    },
    screenshot: async (path) => {
      const { data } = await ask('Page.captureScreenshot', { format: 'png' });
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, Buffer.from(String(data), 'base64'));
    },
    close,
  };
}

function flags(anyCertificate: boolean): string[] {
  return [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--remote-debugging-pipe',
    `--user-data-dir=${tempDir('chromium')}`,
    ...(anyCertificate ? ['--ignore-certificate-errors'] : []),
  ];
}

async function openTarget(
  ask: (method: string, params: object, sessionId?: string) => Promise<Record<string, unknown>>,
): Promise<Ask> {
  const { targetId } = await ask('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await ask('Target.attachToTarget', { targetId, flatten: true });
  return (method, params = {}) => ask(method, params, String(sessionId));
}

function protocolOf(
  child: ChildProcess,
): (method: string, params: object, sessionId?: string) => Promise<Record<string, unknown>> {
  const [to, from] = [child.stdio[fdToBrowser] as Writable, child.stdio[fdFromBrowser] as Readable];
  const waiting = new Map<number, (message: Message) => void>();
  let received = '';
  from.setEncoding('utf8').on('data', (chunk: string) => {
    const messages = (received + chunk).split('\0');
    received = messages.pop() ?? '';
    for (const json of messages) {
      const message = JSON.parse(json) as Message;
      if (message.id !== undefined) waiting.get(message.id)?.(message);
    }
  });
  child.once('exit', () => {
    for (const answer of waiting.values()) answer({ error: { message: 'the browser ended' } });
  });
  to.on('error', () => undefined);
  let lastId = 0;
  return (method, params, sessionId) =>
    new Promise((resolve, reject) => {
      const id = ++lastId;
      waiting.set(id, ({ result = {}, error }) => {
        waiting.delete(id);
        if (error === undefined) resolve(result);
        else reject(new Error(`${method}: ${error.message}`));
      });
      to.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
}

function findCommand(): string | undefined {
  const dirs = (process.env.PATH ?? '').split(delimiter);
  return commands
    .flatMap((command) => dirs.map((dir) => join(dir, command)))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}
