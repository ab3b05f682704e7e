/**
 * What a cache node knows of its disk from one run to the next: `node.json` in its directory.
 *
 *   {"id":"…","upstream":"https://…","cursor":"4711","boot":"…","isClean":false}
 *
 * The cursor is the last event that everything on the disk has seen. It counts again only when it is sure that a file that
 * was forgotten is gone: after a clean stop, or in the same boot of the machine (then only the process died). Otherwise, and
 * with another upstream, everything is forgotten.
 */
import { randomUUID } from 'node:crypto';
import { open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

export interface NodeState {
  /** This node's, where upstream knows it. */
  readonly id: string;
  /** Absent: what is on the disk means nothing any more. */
  readonly cursor?: bigint;
  /** Never throws. The last one counts. */
  save(cursor: bigint): Promise<void>;
  /** From now on `id` is this one. Never throws. */
  rename(id: string): Promise<void>;
  /** After the last write to the disk. `cursor`: absent when it is not known. */
  close(cursor: bigint | undefined): Promise<void>;
}

export interface NodeStateOptions {
  /** Absent: nothing is on a disk. */
  readonly dir?: string | undefined;
  readonly upstream: string;
  readonly onError?: (error: unknown) => void;
  /** What is another one after each start of the machine; for tests. */
  readonly bootId?: () => Promise<string | undefined>;
}

const content = z.object({
  id: z.uuid(),
  upstream: z.string(),
  cursor: z
    .string()
    .regex(/^\d{1,19}$/)
    .optional(),
  boot: z.string().optional(),
  isClean: z.boolean(),
});
type Content = z.output<typeof content>;

export async function openNodeState(options: NodeStateOptions): Promise<NodeState> {
  const { dir, upstream, onError } = options;
  if (dir === undefined) return stateOfNothing();
  const path = join(dir, 'node.json');
  const boot = await (options.bootId ?? linuxBootId)();
  const found = await contentOf(path);
  const isSame = found?.upstream === upstream;
  const counts = isSame && (found.isClean || (boot !== undefined && found.boot === boot));
  const first = counts && found.cursor !== undefined ? BigInt(found.cursor) : undefined;
  let id = isSame ? found.id : randomUUID();

  let newest = first;
  let writing = Promise.resolve();
  const write = (isClean: boolean): Promise<void> => {
    writing = writing
      .then(() =>
        replace(path, { id, upstream, ...(newest === undefined ? {} : { cursor: String(newest) }), boot, isClean }),
      )
      .catch((error) => onError?.(error));
    return writing;
  };
  await write(false);
  return {
    get id() {
      return id;
    },
    ...(first === undefined ? {} : { cursor: first }),
    async save(cursor) {
      newest = cursor;
      await write(false);
    },
    async rename(to) {
      id = to;
      await write(false);
    },
    async close(cursor) {
      newest = cursor;
      await write(cursor !== undefined);
    },
  };
}

/** Of a node without a disk. */
function stateOfNothing(): NodeState {
  let id: string = randomUUID();
  return {
    get id() {
      return id;
    },
    save: async () => {},
    rename: async (to) => {
      id = to;
    },
    close: async () => {},
  };
}

async function contentOf(path: string): Promise<Content | undefined> {
  try {
    return content.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return undefined; // none, or none of ours: everything is forgotten
  }
}

async function replace(path: string, value: Content): Promise<void> {
  const temporary = `${path}.new`;
  const handle = await open(temporary, 'w');
  try {
    await handle.writeFile(`${JSON.stringify(value)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
}

async function linuxBootId(): Promise<string | undefined> {
  const text = await readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => undefined);
  return text?.trim() || undefined;
}
