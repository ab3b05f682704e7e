/** What a grant may say, wherever it is written: in a policy, in a token. */
import { LpsError, parseNamespace } from '@large-payload/core';
import { type Grant, type Right, rights } from './principal.js';

const maxNamespaces = 1000;

/** `orders`, `orders-*` or `*`. Throws INVALID_KEY. */
export function parseNamespacePattern(text: string): string {
  const star = text.indexOf('*');
  if (star !== -1 && star !== text.length - 1) throw new LpsError('INVALID_KEY', 'a "*" may only stand at the end');
  return parseNamespace(text);
}

/** A namespace as a token's claim names it: never a pattern. `undefined` when it is none. */
export function namespaceOfClaim(value: unknown): string | undefined {
  if (typeof value !== 'string' || value.includes('*')) return undefined;
  try {
    return parseNamespace(value);
  } catch {
    return undefined;
  }
}

/** A right by its name. */
export function isRight(text: unknown): text is Right {
  return (rights as readonly unknown[]).includes(text);
}

/** Throws INVALID_KEY, INVALID_ARGUMENT. Nothing is there twice. */
export function parseGrant(grant: Grant): Grant {
  if (grant.namespaces.length === 0 || grant.namespaces.length > maxNamespaces) {
    throw new LpsError('INVALID_ARGUMENT', `a grant names 1 to ${maxNamespaces} namespaces`);
  }
  if (grant.rights.length === 0 || !grant.rights.every(isRight)) {
    throw new LpsError('INVALID_ARGUMENT', `a grant names one or several of ${rights.join(', ')}`);
  }
  return { namespaces: [...new Set(grant.namespaces.map(parseNamespacePattern))], rights: [...new Set(grant.rights)] };
}
