import type { BlobInfo, BlobStore, Body, CallOptions, Expected, PutOptions } from '../blob-store.js';

/** `stat` of any store: its own, or one head after another. */
export async function statOf(
  store: BlobStore,
  keys: readonly string[],
  options?: CallOptions,
): Promise<Map<string, BlobInfo>> {
  if (store.stat !== undefined) return store.stat(keys, options);
  const found = await Promise.all(keys.map((key) => store.head(key, options)));
  return new Map(found.flatMap((info) => (info === undefined ? [] : [[info.key, info]])));
}

/** Everything of a store, bound, for a layer to lay its own functions over. */
export function passThrough(store: BlobStore): BlobStore {
  return {
    name: store.name,
    can: store.can,
    put: (key: string, body: Body, expect: Expected, options?: PutOptions) => store.put(key, body, expect, options),
    get: (key, options) => store.get(key, options),
    head: (key, options) => store.head(key, options),
    delete: (key, options) => store.delete(key, options),
    list: (prefix, options) => store.list(prefix, options),
    ...(store.stat === undefined ? {} : { stat: store.stat.bind(store) }),
    ...(store.countVersions === undefined ? {} : { countVersions: store.countVersions.bind(store) }),
    ...(store.ready === undefined ? {} : { ready: store.ready.bind(store) }),
    ...(store.settings === undefined ? {} : { settings: store.settings.bind(store) }),
    ...(store.close === undefined ? {} : { close: store.close.bind(store) }),
  };
}
