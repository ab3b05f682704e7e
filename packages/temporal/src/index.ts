export type { Backend, Tuning } from './backend.js';
export { defaultMinBytes, LargePayloadCodec, type LargePayloadCodecOptions } from './codec.js';
export {
  defaultPayloadSizeThreshold,
  externalStorage,
  LargePayloadDriver,
  type LargePayloadDriverOptions,
} from './driver.js';
export { EncryptionCodec, type EncryptionCodecOptions } from './encryption-codec.js';
export { takenDownType, toTemporalFailure } from './failure.js';
export { LargePayloadPlugin, type LargePayloadPluginOptions, type PluginMode } from './plugin.js';
export { assertReferencesCanBeEncoded } from './protobufjs-check.js';
export {
  type ClaimReader,
  gcsObjects,
  type ReadObject,
  s3Objects,
  type TemporalClaimsOptions,
  temporalGcsClaims,
  temporalS3Claims,
} from './temporal-claims.js';
export { ZlibCodec, type ZlibCodecOptions } from './zlib-codec.js';
