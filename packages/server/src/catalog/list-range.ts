/** Which part of the index blob_key holds the keys of a namespace that start with a text. */
export interface ListRange {
  /** Bounds of the column `prefix`: from ≤ prefix < to. */
  readonly from: string;
  readonly to: string;
  /** What the key must start with behind `/blobs/{namespace}/`; decides within the bounds. */
  readonly startsWith: string;
}

/** Behind every character that a prefix may hold. */
const behindAll = '\u007f';

/**
 * `prefix` is of the key's text, character by character, as in `BlobStore.list`. Undefined when no key of the
 * namespace starts so. Examples of bounds, for `/blobs/ns/` and then:
 *
 *   common/sha256:9f     ''       … ''
 *   custom/team/re       team/re  … team/re + anything
 *   custom/team/s        team     … team/s + anything     (the key of prefix `team` goes on with `/sha256:`)
 */
export function prefixBounds(namespace: string, prefix: string): ListRange | undefined {
  const start = `/blobs/${namespace}/`;
  if (start.startsWith(prefix)) return { from: '', to: behindAll, startsWith: '' };
  if (!prefix.startsWith(start)) return undefined;
  const startsWith = prefix.slice(start.length);
  if ('common/'.startsWith(startsWith) || startsWith.startsWith('common/')) {
    // 'c' begins both kinds
    return { from: '', to: startsWith === 'c' ? behindAll : '\u0001', startsWith };
  }
  if ('custom/'.startsWith(startsWith)) return { from: '\u0001', to: behindAll, startsWith };
  if (!startsWith.startsWith('custom/')) return undefined;
  const text = startsWith.slice('custom/'.length);
  return { from: shortestPrefix(text), to: `${text}${behindAll}`, startsWith };
}

/** The shortest column value whose key can start with `custom/{text}`. */
function shortestPrefix(text: string): string {
  for (let at = text.indexOf('/', 1); at >= 0; at = text.indexOf('/', at + 1)) {
    const rest = text.slice(at + 1);
    if ('sha256:'.startsWith(rest) || rest.startsWith('sha256:')) return text.slice(0, at);
  }
  return text;
}
