export * from './blob-store.js';
export * from './body.js';
export { ByteLru } from './byte-lru.js';
export * from './claim.js';
export * from './claim-check.js';
export { manyListeners, Slots, settleAll } from './concurrency.js';
export * from './digest.js';
export * from './errors.js';
export * from './key.js';
export { type CachedStore, type CacheOptions, cached, type Lookup } from './layers/cached.js';
export { checked } from './layers/checked.js';
export { passThrough, statOf } from './layers/layer.js';
export { named, type Observer, observed, type StoreEvent, type StoreOperation } from './layers/observed.js';
export * from './metadata.js';
export * from './payload-size.js';
export { type Clock, type RetryOptions, systemClock, withRetries } from './retry.js';
export { type AzureCredential, type AzureStoreOptions, openAzureStore } from './stores/azure.js';
export { type FileStore, type FileStoreOptions, openFileStore } from './stores/file.js';
export { type GcsStoreOptions, openGcsStore } from './stores/gcs.js';
export {
  type HttpHeaders,
  type HttpStoreOptions,
  openHttpStore,
  type TokenSource,
  type Transfer,
} from './stores/http.js';
export { problemOf } from './stores/http-answers.js';
export { type MemoryStoreOptions, memoryStore } from './stores/memory.js';
export { openS3Store, type S3Credentials, type S3StoreOptions } from './stores/s3.js';
export * from './transport.js';
