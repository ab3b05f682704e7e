/**
 * The credential of a request, from its `Authorization` header.
 *
 *   Bearer abc.def          as everybody sends it; the scheme in any case
 *   Bearer+abc.def          as the Go codec sends it: the whole value went through Go's url.QueryEscape
 *
 * Nothing else is looked at: the Web UI's `Authorization-Extras` (an id token) says nothing about what its user may do here.
 */
import { LpsError } from '@large-payload/core';

/** Longer ones are refused unread. JWTs with many groups reach a few KiB. */
export const maxTokenLength = 16 * 1024;

/** RFC 6750: what a bearer token may consist of. */
const tokenText = /^[A-Za-z0-9._~+/-]+=*$/;
/** What Go's url.QueryEscape leaves as it is, and what it writes for the rest. */
const queryEscaped = /^(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+$/;

/** The token. Throws UNAUTHENTICATED when there is none, or the header says something else. */
export function bearerToken(header: string | undefined): string {
  if (header === undefined || header === '') throw new LpsError('UNAUTHENTICATED', 'a bearer token is required');
  // three characters for one, at the worst
  if (header.length > 3 * maxTokenLength + 'Bearer '.length) throw malformed();
  const [scheme, separator] = [header.slice(0, 6).toLowerCase(), header.charAt(6)];
  if (scheme !== 'bearer') throw malformed();
  const rest = header.slice(7);
  const token = separator === '+' ? unescaped(rest) : separator === ' ' ? rest.trim() : '';
  if (token.length > maxTokenLength || !tokenText.test(token)) throw malformed();
  return token;
}

function unescaped(text: string): string {
  if (!queryEscaped.test(text)) throw malformed();
  try {
    return decodeURIComponent(text);
  } catch {
    throw malformed(); // not UTF-8
  }
}

function malformed(): LpsError {
  return new LpsError('UNAUTHENTICATED', 'the Authorization header must be "Bearer", a space, and a token');
}
