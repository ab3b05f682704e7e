/**
 * The claim data of the driver, all of it text and always the same for the same payload in the same namespace (the SDK
 * caches by it):
 *
 *   version   1
 *   key       /blobs/orders/common/sha256:9f86…/sha256:e3b0…
 *   size      123456                                            bytes of the blob
 *   metadata  eyJlbmNvZGluZyI6ImFuTnZiaTl3YkdGcGJnPT0ifQ==      base64 of the claim's metadata JSON (`null` when none)
 *
 * The key carries namespace and digest: a retrieve is told nothing but this.
 */
import {
  type Claim,
  decodeBase64,
  type KeyedClaim,
  LpsError,
  metadataFromJson,
  metadataToJson,
  parseKey,
} from '@large-payload/core';

const fields = ['key', 'metadata', 'size', 'version'];

export function formatClaimData(claim: KeyedClaim): Record<string, string> {
  return {
    version: '1',
    key: claim.key,
    size: `${claim.size}`,
    metadata: Buffer.from(metadataToJson(claim.metadata), 'utf8').toString('base64'),
  };
}

/** The one parser for claim data. Throws INVALID_CLAIM. */
export function parseClaimData(data: Readonly<Record<string, string>>): Claim {
  const { version, key, size, metadata } = data;
  if (version !== '1') throw invalid(`its version is not known: ${JSON.stringify(`${version}`.slice(0, 20))}`);
  if (Object.keys(data).sort().join() !== fields.join()) throw invalid(`its fields are not ${fields.join(', ')}`);
  if (size === undefined || !/^(?:0|[1-9][0-9]{0,14})$/.test(size)) throw invalid('its size is not a number');
  const parsed = guarded('its key is not a key', () => parseKey(key));
  return {
    metadata: guarded('its metadata is not base64 of a JSON object', () => parseMetadata(metadata ?? '')),
    size: Number(size),
    digest: parsed.digest,
    ...(key === undefined ? {} : { key }),
  };
}

function parseMetadata(text: string): Claim['metadata'] {
  const bytes = decodeBase64(text);
  if (bytes === undefined) throw invalid('its metadata is not base64');
  return metadataFromJson(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)));
}

function guarded<T>(reason: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw invalid(reason, cause);
  }
}

function invalid(reason: string, cause?: unknown): LpsError {
  return new LpsError('INVALID_CLAIM', `not a claim of this driver: ${reason}`, cause === undefined ? {} : { cause });
}
