/** Who calls, and what he may do. */

/**
 * `read`   blobs, by key, and what is listed          `decode`  the codec server: payloads as people read them
 * `write`  blobs, pins and `/encode`                   `admin`   workflows, takedowns, the collection
 *
 * None of them includes another.
 */
export const rights = ['read', 'write', 'decode', 'admin'] as const;
export type Right = (typeof rights)[number];

/** Rights on namespaces. A namespace may end in `*`: `orders-*` are all that begin so, `*` are all. */
export interface Grant {
  readonly namespaces: readonly string[];
  readonly rights: readonly Right[];
}

export interface Principal {
  /** For limits, logs and the audit: `token:k3v9x2m4`, `jwt:{issuer}|{subject}`, or `anonymous`. One line, printable. */
  readonly id: string;
  readonly grants: readonly Grant[];
  /** From then on his credential is worth nothing; absent: it does not say. */
  readonly expiresAt?: Date;
}

/** Whoever calls where nobody is asked who he is. */
export const anonymous: Principal = { id: 'anonymous', grants: [{ namespaces: ['*'], rights }] };

/** Finds out who a bearer token stands for. Throws UNAUTHENTICATED; CATALOG_UNAVAILABLE,
 * TRY_AGAIN and OVERLOADED when that cannot be known now. */
export interface Authenticator {
  authenticate(token: string): Promise<Principal>;
}

/** Whether a principal has a right on one namespace. */
export function may({ grants }: Principal, right: Right, namespace: string): boolean {
  return grants.some((grant) => grant.rights.includes(right) && grant.namespaces.some((one) => covers(one, namespace)));
}

/** Whether a principal has a right on every namespace there is. */
export function mayEverywhere({ grants }: Principal, right: Right): boolean {
  return grants.some((grant) => grant.rights.includes(right) && grant.namespaces.includes('*'));
}

/** Whether a principal has a right on any namespace at all. */
export function maySomewhere({ grants }: Principal, right: Right): boolean {
  return grants.some((grant) => grant.rights.includes(right) && grant.namespaces.length > 0);
}

/** The one namespace that a principal has a right on, when it is one and not a pattern. */
export function soleNamespace({ grants }: Principal, right: Right): string | undefined {
  const named = new Set(grants.flatMap((grant) => (grant.rights.includes(right) ? grant.namespaces : [])));
  const [only] = named;
  return named.size === 1 && only !== undefined && !only.endsWith('*') ? only : undefined;
}

function covers(pattern: string, namespace: string): boolean {
  return pattern.endsWith('*') ? namespace.startsWith(pattern.slice(0, -1)) : pattern === namespace;
}
