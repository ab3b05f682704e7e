/** A real browser without a driver package: Chromium's DevTools protocol over two pipes, JSON messages that end in NUL. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { skipped, tempDir } from '@large-payload/test-components';
import { until } from './until.ts';

const commands = ['chromium', 'chromium-browser', 'google-chrome'];
const usualFlags = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--remote-debugging-pipe',
];
const fdToBrowser = 3;
const fdFromBrowser = 4;

export interface Browser {
  open(url: string): Promise<void>;
  /** Puts a file of this machine into the form's file field. */
  choose(selector: string, path: string): Promise<void>;
  click(selector: string): Promise<void>;
  /** The text of an element, once there is one. */
  text(selector: string): Promise<string>;
  close(): Promise<void>;
}

interface Answer {
  readonly id?: number;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export async function startChromium(): Promise<Browser | undefined> {
  const target = await openTarget();
  if (target === undefined) return undefined;
  const { ask: onPage, close } = target;
  const evaluate = async (expression: string): Promise<unknown> => {
    const { result } = await onPage('Runtime.evaluate', { expression, returnByValue: true });
    return (result as { value?: unknown }).value;
  };
  const present = (selector: string) =>
    until(selector, async () =>
      (await evaluate(`document.querySelector('${selector}') !== null`)) ? true : undefined,
    );
  return {
    open: async (url) => {
      await onPage('Page.navigate', { url });
    },
    choose: async (selector, path) => {
      await present(selector);
      const { root } = await onPage('DOM.getDocument');
      const { nodeId } = await onPage('DOM.querySelector', { nodeId: (root as { nodeId: number }).nodeId, selector });
      await onPage('DOM.setFileInputFiles', { nodeId, files: [path] });
    },
    click: async (selector) => {
      await present(selector);
      await evaluate(`document.querySelector('${selector}').click()`);
    },
    text: async (selector) => {
      await present(selector);
      return String(await evaluate(`document.querySelector('${selector}').textContent`));
    },
    close,
  };
}

/** One page, and how to ask it things: https://chromedevtools.github.io/devtools-protocol/ */
export interface Target {
  /** Throws what the browser says. */
  ask(method: string, params?: object): Promise<Record<string, unknown>>;
  close(): Promise<void>;
}

/** A browser of its own with an empty page; `undefined` where there is none (see requireOrSkip). */
export async function openTarget(...flags: readonly string[]): Promise<Target | undefined> {
  const command = findCommand();
  if (command === undefined) return skipped('chromium', `none of ${commands.join(', ')} is on the PATH`);
  const profile = `--user-data-dir=${tempDir('chromium')}`;
  const child = spawn(command, [...usualFlags, profile, ...flags], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
  });
  process.once('exit', () => child.kill('SIGKILL'));
  const ask = protocolOf(child);
  const { targetId } = await ask('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await ask('Target.attachToTarget', { targetId, flatten: true });
  return {
    ask: (method, params = {}) => ask(method, params, String(sessionId)),
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
}

type Ask = (method: string, params: object, sessionId?: string) => Promise<Record<string, unknown>>;

function protocolOf(child: ChildProcess): Ask {
  const [to, from] = [child.stdio[fdToBrowser] as Writable, child.stdio[fdFromBrowser] as Readable];
  const waiting = new Map<number, (answer: Answer) => void>();
  let received = '';
  from.setEncoding('utf8').on('data', (text: string) => {
    const messages = (received + text).split('\0');
    received = messages.pop() ?? '';
    for (const message of messages) {
      const answer = JSON.parse(message) as Answer;
      if (answer.id !== undefined) waiting.get(answer.id)?.(answer);
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
  const paths = commands.flatMap((command) =>
    (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, command)),
  );
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
