/** Sizes against Temporal's own limits: 2 MiB a payload, 4 MiB a message, 50 MiB a history (its defaults). */

import { formatBytes } from '../config/kinds.js';
import { type Finding, fail, ok, warn } from './finding.js';

export interface LimitFacts {
  /** `minBytes` of the codec and plugin, `payloadSizeThreshold` of External Storage. Bytes. */
  readonly thresholdBytes: number;
  readonly maxBlobBytes: number;
}

/** What codec, driver and plugin have when nothing is given. */
export const defaultThresholdBytes = 128_000;

const payloadLimit = 2 * 1024 * 1024;
const messageLimit = 4 * 1024 * 1024;
const historyLimit = 50 * 1024 * 1024;
/** The SDK's own default: 15 of them still fit into one message. */
const generousBytes = 256 * 1024;
/** A claim has some 400 bytes. */
const pointlessBytes = 1000;

export function judgeLimits(facts: LimitFacts): Finding[] {
  return [threshold(facts), largest(facts)];
}

/** `128kB`, `2MiB`: exact, and thousands where they are round. */
function sizeText(bytes: number): string {
  if (bytes % 1000 === 0 && bytes > 0) return bytes % 1_000_000 === 0 ? `${bytes / 1_000_000}MB` : `${bytes / 1000}kB`;
  const text = formatBytes(bytes);
  return /\d$/.test(text) ? `${text} bytes` : text;
}

function threshold({ thresholdBytes }: LimitFacts): Finding {
  const size = sizeText(thresholdBytes);
  const todo = `lower it to ${defaultThresholdBytes.toLocaleString('en-US')}, the default of minBytes and payloadSizeThreshold`;
  if (thresholdBytes > payloadLimit) {
    const seen = `payloads up to ${size} stay inline, and Temporal refuses those above 2 MiB`;
    return fail('limits.threshold', seen, todo);
  }
  if (thresholdBytes > generousBytes) {
    const [perMessage, perHistory] = [messageLimit, historyLimit].map((limit) => Math.floor(limit / thresholdBytes));
    const seen = `payloads up to ${size} stay inline: ${perMessage} of them fill a message (4 MiB), ${perHistory} a history (50 MiB)`;
    return warn('limits.threshold', seen, todo);
  }
  if (thresholdBytes < pointlessBytes) {
    return warn('limits.threshold', `payloads of ${size} are offloaded, and their claims are as large`, todo);
  }
  return ok('limits.threshold', `payloads above ${size} are offloaded`);
}

function largest({ thresholdBytes, maxBlobBytes }: LimitFacts): Finding {
  const size = sizeText(maxBlobBytes);
  if (maxBlobBytes <= thresholdBytes) {
    const seen = `the service takes blobs up to ${size}, and only payloads above ${sizeText(thresholdBytes)} come to it`;
    return fail('limits.max-blob-bytes', seen, 'raise --max-blob-bytes');
  }
  if (maxBlobBytes < payloadLimit) {
    const seen = `the service takes blobs up to ${size}: it refuses payloads that Temporal itself would take (2 MiB)`;
    return warn('limits.max-blob-bytes', seen, 'raise --max-blob-bytes');
  }
  return ok('limits.max-blob-bytes', `blobs up to ${size} are taken`);
}
