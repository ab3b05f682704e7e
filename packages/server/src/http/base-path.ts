/** Where routes begin in the URLs of somebody else's server. */
import { LpsError } from '@large-payload/core';

/** `''`, or `/a/b`. Throws CONFIG_INVALID. */
export function checkedPath(path: string): string {
  const trimmed = path.replace(/\/+$/, '');
  if (trimmed === '' || /^(?:\/[\w.~%-]+)+$/.test(trimmed)) return trimmed;
  throw new LpsError('CONFIG_INVALID', `the path ${JSON.stringify(path)} is not one such as /payloads`);
}

/** The URL as the routes know it; `undefined` when it does not begin with the path. */
export function pathBelow(base: string, url: string): string | undefined {
  if (base === '') return url;
  if (!url.startsWith(base)) return undefined;
  const rest = url.slice(base.length);
  if (rest.startsWith('/')) return rest;
  return rest === '' || rest.startsWith('?') ? `/${rest}` : undefined;
}
