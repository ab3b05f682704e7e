/** Whether store and catalog belong together: `.lps/catalog` against the catalog's id. */
import { type BlobStore, isLpsError } from '@large-payload/core';
import { ownerObject, readOwner } from '../bucket-owner.js';
import { type Finding, fail, ok } from './finding.js';

export interface OwnerFacts {
  /** The id in the store; absent on a new one. */
  readonly owner?: string;
  /** The id in the database; absent when it has no tables yet. */
  readonly catalogId?: string;
}

/** Reads the store's owner. Throws what the store throws. */
export async function ownerOf(store: BlobStore): Promise<{ owner?: string } | { foreign: string }> {
  try {
    const owner = await readOwner(store);
    return owner === undefined ? {} : { owner };
  } catch (error) {
    if (isLpsError(error, 'CONFIG_INVALID')) return { foreign: error.message };
    throw error;
  }
}

export function judgeOwner({ owner, catalogId }: OwnerFacts): Finding {
  if (owner === undefined) return ok('catalog.owner', 'the store belongs to no catalog yet');
  if (owner === catalogId) return ok('catalog.owner', 'store and catalog belong together');
  const whose = catalogId === undefined ? 'and this database has none yet' : `and not to this one (${catalogId})`;
  const todo =
    'use the database that the store was made with. When that is lost for good and no service uses it any more: ' +
    `"lps catalog import" of its export, or "lps catalog reconcile --take-over ${owner}"`;
  return fail(
    'catalog.owner',
    `the store belongs to the catalog ${owner}, ${whose}: the service would not start`,
    todo,
  );
}

export function judgeForeign(message: string): Finding {
  return fail('catalog.owner', message, `use another bucket or prefix; or, when ${ownerObject} is nobody's, remove it`);
}
