import { LpsError } from '@large-payload/core';
import type { Page } from '../temporal-api.js';
import type { FoundHolder } from './holder-kind.js';

/** A list to its end, a page at a time. */
export async function* pages<Item>(
  list: (next: Uint8Array | undefined) => Promise<Page<Item>>,
  found: (item: Item) => FoundHolder,
): AsyncGenerator<readonly FoundHolder[]> {
  for (let next: Uint8Array | undefined; ; ) {
    const page = await list(next);
    yield page.items.map(found);
    if (page.next === undefined) return;
    if (next !== undefined && Buffer.compare(next, page.next) === 0)
      throw new LpsError('TEMPORAL_UNAVAILABLE', 'a list of holders does not go on: the same page is to follow again');
    next = page.next;
  }
}
