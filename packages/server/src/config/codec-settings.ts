/** The settings of the codec server: their part of the table in settings.ts. */
import { corsSetting } from './access-settings.js';
import { bytes, choice, list, text, yesNo } from './kinds.js';

const MiB = 1024 ** 2;
const GiB = 1024 ** 3;

const codecs = list(
  text({ placeholder: 'codec', expects: 'zlib, aes-gcm or an ES module such as ./codec.js', pattern: /^[^\0]+$/ }),
);
const buckets = list(text({ placeholder: 'name', expects: 'the name of a bucket', pattern: /^[\w.-]+$/ }));

export const codecSettings = {
  codecServer: {
    flag: 'codec-server',
    kind: yesNo(),
    group: 'Codec server',
    default: 'true',
    help: "Serve /encode, /decode and /download for Temporal's Web UI and CLI.",
    helpOff: "Do not serve /encode, /decode and /download for Temporal's Web UI and CLI.",
  },
  ...corsSetting,
  codecPreStorage: {
    flag: 'codec-pre-storage',
    kind: codecs,
    group: 'Codec server',
    default: '',
    help: 'Codecs that the workers run before a payload is stored, in the order of encoding.',
  },
  codecPostStorage: {
    flag: 'codec-post-storage',
    kind: codecs,
    group: 'Codec server',
    default: '',
    help: 'Codecs that run on what stays in the history, in the order of encoding.',
  },
  codecKeys: {
    flag: 'codec-keys',
    kind: text({
      placeholder: 'id=base64,…',
      expects: 'keys such as k1=<base64 of 32 bytes>, separated by commas or new lines',
    }),
    group: 'Codec server',
    secret: true,
    help: 'Keys of aes-gcm, by their ids.',
  },
  codecKeyId: {
    flag: 'codec-key-id',
    kind: text({ placeholder: 'id', expects: 'the id of a key', pattern: /^[^\s,=]+$/ }),
    group: 'Codec server',
    defaultHelp: 'the first one',
    help: 'Key that /encode encrypts with.',
  },
  codecDeterministic: {
    flag: 'codec-deterministic',
    kind: yesNo(),
    group: 'Codec server',
    default: 'false',
    help: 'aes-gcm makes the same bytes of the same payload, so that it is stored once.',
  },
  codecThresholdBytes: {
    flag: 'codec-threshold',
    kind: bytes(0, GiB, '128kB'),
    group: 'Codec server',
    default: '128000',
    help: '/encode stores payloads of at least so many bytes.',
  },
  codecClaims: {
    flag: 'codec-claims',
    kind: choice('driver', 'go'),
    group: 'Codec server',
    default: 'driver',
    help: "What /encode writes in their place: a reference of our driver, or the Go codec's claim.",
  },
  codecResponseBytes: {
    flag: 'codec-response-bytes',
    kind: bytes(MiB, 16 * GiB, '64MiB'),
    group: 'Codec server',
    default: '64MiB',
    help: 'Most bytes of payloads in one answer; also of one request.',
  },
  codecMemoryBytes: {
    flag: 'codec-memory-bytes',
    kind: bytes(MiB, 1024 * GiB, '256MiB'),
    group: 'Codec server',
    default: '256MiB',
    help: 'Most bytes of payloads in all answers under way.',
  },
  temporalS3Buckets: {
    flag: 'temporal-s3-bucket',
    kind: buckets,
    group: 'Codec server',
    default: '',
    help: "Bucket in which references of Temporal's own S3 driver may be followed. Region and endpoint are those of S3 above.",
  },
  temporalGcsBuckets: {
    flag: 'temporal-gcs-bucket',
    kind: buckets,
    group: 'Codec server',
    default: '',
    help: "Bucket in which references of Temporal's own GCS driver may be followed.",
  },
} as const;
