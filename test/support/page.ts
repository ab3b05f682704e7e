/** One page of a real browser (chromium.ts): what is on it, what it saves, and pictures of it. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { tempDir } from '@large-payload/test-components';
import { openTarget, type Target } from './chromium.ts';
import { until } from './until.ts';

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

export async function startPage({ anyCertificate = false }: PageOptions = {}): Promise<Page | undefined> {
  const target = await openTarget(...(anyCertificate ? ['--ignore-certificate-errors'] : []));
  if (target === undefined) return undefined;
  const downloads = tempDir('downloads');
  await target.ask('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath: downloads });
  await target.ask('Emulation.setDeviceMetricsOverride', { ...size, deviceScaleFactor: 1, mobile: false });
  return pageOf(target, downloads);
}

function pageOf({ ask, close }: Target, downloads: string): Page {
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
      const isNew = (name: string): boolean => !seen.has(name) && !/crdownload|\.tmp|^\./.test(name);
      return until('a saved file', async () => {
        const name = readdirSync(downloads).find(isNew);
        const content = name === undefined ? '' : readFileSync(join(downloads, name), 'utf8');
        // the browser keeps the name with an empty file, until it moves the whole one there
        if (name === undefined || content === '') return undefined;
        seen.add(name);
        return content;
      });
    },
    screenshot: async (path) => {
      const { data } = await ask('Page.captureScreenshot', { format: 'png' });
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, Buffer.from(String(data), 'base64'));
    },
    close,
  };
}
