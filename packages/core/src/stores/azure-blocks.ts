/**
 * Uploads in blocks:
 *
 *     PUT …?comp=block&blockid=…      as often as it takes; nothing is readable of them
 *     PUT …?comp=blocklist            all of them become the blob, at once
 *
 * Blocks that no list took vanish within a week. All uploads of one name share the list of blocks that are not yet taken,
 * and the first commit empties it: so every upload has ids of its own, and the others learn at their commit that they lost.
 */
import { randomBytes } from 'node:crypto';
import type { Readable } from 'node:stream';

export interface BlockUpload {
  /** A block's size, in bytes; the last one may be smaller. */
  readonly blockBytes: number;
  stage(id: string, bytes: Uint8Array): Promise<void>;
}

/** Azure's limit. */
const maxBlocks = 50_000;

/** Names for the blocks of one upload: 18 random bytes and a count, in base64, which Azure wants all equally long. */
export function blockNames(): () => string {
  const upload = randomBytes(18);
  let count = 0;
  return () => {
    const number = Buffer.alloc(6);
    number.writeUIntBE(count++, 0, 6);
    return Buffer.concat([upload, number]).toString('base64');
  };
}

/** How large the blocks of a blob must be for them not to become too many. */
export function blockBytesFor(size: number, blockBytes: number): number {
  return Math.max(blockBytes, Math.ceil(size / maxBlocks));
}

/** Stages all of a stream; one block goes out while the next is filled. Gives the ids in order. */
export async function stageBlocks(source: Readable, { blockBytes, stage }: BlockUpload): Promise<string[]> {
  const nextName = blockNames();
  const ids: string[] = [];
  let block = Buffer.allocUnsafeSlow(blockBytes);
  let filled = 0;
  let underWay: Promise<void> = Promise.resolve();

  const send = async (): Promise<void> => {
    await underWay;
    const id = nextName();
    ids.push(id);
    underWay = stage(id, block.subarray(0, filled));
    // the source may be silent: it must not keep us from noticing
    underWay.catch((error: Error) => source.destroy(error));
    block = Buffer.allocUnsafeSlow(blockBytes);
    filled = 0;
  };
  try {
    for await (const chunk of source as AsyncIterable<Uint8Array>) {
      for (let at = 0; at < chunk.length; ) {
        const part = chunk.subarray(at, at + blockBytes - filled);
        block.set(part, filled);
        filled += part.length;
        at += part.length;
        if (filled === blockBytes) await send();
      }
    }
    if (filled > 0) await send();
    await underWay;
    return ids;
  } catch (error) {
    // nothing flows behind the caller's back
    await underWay.catch(() => {});
    throw error;
  }
}

/** `<BlockList><Latest>…</Latest>…</BlockList>`; the latest, so that a commit which is repeated finds them again. */
export function blockList(ids: readonly string[]): Buffer {
  const blocks = ids.map((id) => `<Latest>${id}</Latest>`).join('');
  return Buffer.from(`<?xml version="1.0" encoding="utf-8"?><BlockList>${blocks}</BlockList>`);
}
