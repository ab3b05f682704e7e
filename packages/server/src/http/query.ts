import { LpsError } from '@large-payload/core';
import type { z } from 'zod';

/**
 * The query of a request, checked and converted by a schema of its names. What it does not name is left out. Throws
 * INVALID_ARGUMENT with the schema's own words, and whatever its transforms throw.
 */
export function queryOf<S extends z.ZodType>(
  { raw }: { readonly raw: { readonly url?: string | undefined } },
  schema: S,
): z.output<S> {
  const parsed = schema.safeParse(Object.fromEntries(parseQuery(raw.url ?? '')));
  if (parsed.success) return parsed.data;
  throw new LpsError('INVALID_ARGUMENT', parsed.error.issues[0]?.message ?? 'the query is not what this route takes');
}

/** The JSON body of a request, as `queryOf` has the query. Throws INVALID_ARGUMENT with these words, and what transforms throw. */
export function bodyOf<S extends z.ZodType>(
  { body }: { readonly body: unknown },
  schema: S,
  otherwise: string,
): z.output<S> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  throw new LpsError('INVALID_ARGUMENT', otherwise);
}

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
