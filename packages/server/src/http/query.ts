import { LpsError } from '@large-payload/core';

/**
 * The query of a request, decoded once and strictly: `+` is a space, `%XX` must be valid UTF-8, no name comes twice.
 * Throws INVALID_ARGUMENT.
 */
export function parseQuery(url: string): Map<string, string> {
  const at = url.indexOf('?');
  const query = new Map<string, string>();
  if (at < 0) return query;
  for (const pair of url.slice(at + 1).split('&')) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    const name = decode(equals < 0 ? pair : pair.slice(0, equals));
    if (query.has(name)) throw new LpsError('INVALID_ARGUMENT', `the query names ${JSON.stringify(name)} twice`);
    query.set(name, equals < 0 ? '' : decode(pair.slice(equals + 1)));
  }
  return query;
}

/** A value of the query that must be there. Throws INVALID_ARGUMENT. */
export function requiredOf(query: Map<string, string>, name: string): string {
  const value = query.get(name);
  if (value === undefined || value === '')
    throw new LpsError('INVALID_ARGUMENT', `${name} query parameter is required`);
  return value;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch (cause) {
    throw new LpsError('INVALID_ARGUMENT', 'the query is not valid percent-encoded UTF-8', { cause });
  }
}
