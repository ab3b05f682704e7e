/**
 * Pins in two places: a row in the catalog, which the collection asks, and a small object in the store, from which a lost
 * catalog gets them back.
 *
 *   .lps/pins/6f1f…    {"key":"/blobs/orders/custom/reports/","owner":"…","reason":"…","createdAt":"…","expiresAt":"…"}
 *
 * To pin: object, row. To let go: object, row. So a row always has its object, but for a moment at its end; an object
 * without a row is a pin that nobody was told of, and what it costs after a rebuild is space.
 */
import { randomBytes } from 'node:crypto';
import { type BlobStore, digestOf, LpsError, readAll } from '@large-payload/core';
import { z } from 'zod';
import type { LifecycleCatalog, NewPin, Pin } from '../lifecycle-catalog.js';
import { parsePinKey } from './pin-key.js';

/** Where the objects are. */
export const pinObjects = '.lps/pins/';

export const maxReasonLength = 1000;
const maxObjectBytes = 16_384;

export interface Pins {
  /** Those that still hold, the newest first; of a key: those that keep it; of a prefix: also those below it. */
  list(key?: string): Promise<Pin[]>;
  /** From its answer on nothing that it names is deleted. Throws INVALID_KEY, INVALID_ARGUMENT. */
  add(pin: Omit<Pin, 'id' | 'createdAt'>): Promise<Pin>;
  /** `false` when there is no such pin (any more). */
  remove(id: string): Promise<boolean>;
}

type PinCatalog = Pick<LifecycleCatalog, 'pins' | 'addPin' | 'removePin' | 'now'>;

/** `store`: below the catalogued layer, which deletes nothing. */
export function pinsOf(catalog: PinCatalog, store: Pick<BlobStore, 'put' | 'delete'>): Pins {
  return {
    list: (key) => catalog.pins(key),
    async add(asked) {
      const createdAt = await catalog.now();
      const pin: Pin = { ...asked, key: parsePinKey(asked.key).key, id: randomBytes(10).toString('hex'), createdAt };
      if (pin.expiresAt !== undefined && pin.expiresAt <= createdAt) {
        throw new LpsError('INVALID_ARGUMENT', 'the pin is over already');
      }
      if (pin.reason.length > maxReasonLength || pin.owner.length > maxReasonLength) {
        throw new LpsError('INVALID_ARGUMENT', `owner and reason have at most ${maxReasonLength} characters each`);
      }
      const bytes = bytesOf(pin);
      await store.put(`${pinObjects}${pin.id}`, bytes, { digest: digestOf(bytes), size: bytes.length });
      return catalog.addPin(pin);
    },
    async remove(id) {
      if (!/^[0-9a-z-]{1,60}$/.test(id)) return false; // not one of ours
      await store.delete(`${pinObjects}${id}`);
      return catalog.removePin(id);
    },
  };
}

/**
 * Takes the pins that a store keeps into a catalog that was lost; those that are over stay out. Returns how many. Throws
 * CONFIG_INVALID for an object that is no pin: what it should keep is not known then.
 */
export async function restorePins(
  store: BlobStore,
  catalog: Pick<LifecycleCatalog, 'addPin' | 'now'>,
): Promise<number> {
  const now = await catalog.now();
  let restored = 0;
  for await (const { key } of store.list(pinObjects)) {
    const found = await store.get(key);
    if (found === undefined) continue; // let go of meanwhile
    const pin = parsePin(key, Buffer.from(await readAll(found.body, maxObjectBytes)).toString('utf8'));
    if (pin.expiresAt !== undefined && pin.expiresAt <= now) continue;
    await catalog.addPin(pin);
    restored += 1;
  }
  return restored;
}

const time = z.iso.datetime().transform((text) => new Date(text));
const content = z.object({
  key: z.string(),
  owner: z.string(),
  reason: z.string(),
  createdAt: time,
  expiresAt: time.optional(),
});

function parsePin(name: string, text: string): NewPin {
  try {
    const { expiresAt, ...pin } = content.parse(JSON.parse(text));
    parsePinKey(pin.key);
    return { ...pin, id: name.slice(pinObjects.length), ...(expiresAt === undefined ? {} : { expiresAt }) };
  } catch (cause) {
    throw new LpsError('CONFIG_INVALID', `the object ${name} is not a pin of this service`, { cause });
  }
}

function bytesOf({ key, owner, reason, createdAt, expiresAt }: Pin): Buffer {
  return Buffer.from(JSON.stringify({ key, owner, reason, createdAt, expiresAt }));
}
