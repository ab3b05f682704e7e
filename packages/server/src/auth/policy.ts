/**
 * What the claims of a JWT give: a policy file, or else the permissions that Temporal's own tokens carry.
 *
 *   rules:
 *     - when: { groups: payments-oncall }
 *       namespaces: [payments, "payments-*"]
 *       rights: [read, decode]
 *     - namespaces-from: temporal_namespaces
 *       rights: [read, write]
 *
 * Claims are read as own properties only: no name reaches a prototype.
 */
import { isLpsError } from '@large-payload/core';
import { z } from 'zod';
import { parseStructured, readStructured } from '../config/structured-file.js';
import { namespaceOfClaim, parseGrant, parseNamespacePattern } from './policy-grant.js';
import { type Grant, type Right, rights } from './principal.js';

export type Claims = Readonly<Record<string, unknown>>;

export interface Policy {
  /** Never throws, whatever the claims are. */
  grantsOf(claims: Claims): readonly Grant[];
}

interface Rule {
  /** All of them must hold; none: for every token. */
  readonly when: readonly (readonly [claim: string, value: Scalar])[];
  readonly namespaces: readonly string[] | { readonly from: string };
  readonly rights: readonly Right[];
}

type Scalar = string | number | boolean;

const maxRules = 1000;
const maxNamespaces = 1000;
/** RFC 8693 and what others call it: words with spaces between them. */
const claimsOfWords = ['scope', 'scp'];

/** Reads a policy file. Throws CONFIG_INVALID with every problem in it. */
export async function readPolicy(path: string): Promise<Policy> {
  return parsePolicy(path, await readStructured('auth-policy', path));
}

/** `name` is for the problems. Throws CONFIG_INVALID. */
export function parsePolicy(name: string, content: string): Policy {
  const { rules } = parseStructured(name, content, policySchema);
  return { grantsOf: (claims) => rules.flatMap((rule) => grantOf(rule, claims) ?? []) };
}

const claimName = z.string().min(1).max(500);

/** Entries of its own, and not a zod record: that one drops `__proto__`, and a dropped condition would let everyone in. */
const conditionsSchema = z.unknown().transform((value, context): (readonly [string, Scalar])[] => {
  const entries = typeof value === 'object' && value !== null && !Array.isArray(value) ? Object.entries(value) : [];
  if (entries.length === 0) {
    context.addIssue({
      code: 'custom',
      message: 'must name claims and values; leave it out where every token is meant',
    });
  }
  return entries.flatMap(([claim, wanted]) => {
    if (claim !== '' && isScalar(wanted)) return [[claim, wanted] as const];
    context.addIssue({ code: 'custom', message: 'must be one text, number, true or false', path: [claim] });
    return [];
  });
});

const namespacesSchema = z
  .array(
    z.string().transform((value, context) => {
      try {
        return parseNamespacePattern(value);
      } catch (error) {
        context.addIssue({ code: 'custom', message: isLpsError(error) ? error.message : 'is no namespace' });
        return z.NEVER;
      }
    }),
  )
  .min(1)
  .max(maxNamespaces);

const ruleSchema = z
  .strictObject({
    when: conditionsSchema.optional(),
    namespaces: namespacesSchema.optional(),
    'namespaces-from': claimName.optional(),
    rights: z.array(z.enum(rights)).min(1).max(100),
  })
  .transform((rule, context): Rule => {
    const from = rule['namespaces-from'];
    if ((rule.namespaces === undefined) === (from === undefined)) {
      context.addIssue({ code: 'custom', message: 'must have either "namespaces" or "namespaces-from"' });
      return z.NEVER;
    }
    const namespaces = rule.namespaces ?? { from: from ?? '' };
    return { when: rule.when ?? [], namespaces, rights: [...new Set(rule.rights)] };
  });

const policySchema = z.strictObject({ rules: z.array(ruleSchema).max(maxRules) });

function grantOf({ when, namespaces, rights }: Rule, claims: Claims): Grant | undefined {
  if (!when.every(([claim, value]) => holds(claims, claim, value))) return undefined;
  if (!('from' in namespaces)) return { namespaces, rights };
  const value = claimOf(claims, namespaces.from);
  const named = (Array.isArray(value) ? value : [value])
    .slice(0, maxNamespaces)
    .flatMap((one) => namespaceOfClaim(one) ?? []);
  return named.length === 0 ? undefined : { namespaces: [...new Set(named)], rights };
}

function holds(claims: Claims, name: string, wanted: Scalar): boolean {
  const value = claimOf(claims, name);
  if (Array.isArray(value)) return value.includes(wanted);
  if (typeof value === 'string' && claimsOfWords.includes(name))
    return value.split(' ').some((word) => word === wanted);
  return value === wanted;
}

/** A claim by its whole name (`https://example.com/groups`), or else by its way through objects (`realm_access.roles`). */
function claimOf(claims: Claims, name: string): unknown {
  if (Object.hasOwn(claims, name)) return claims[name];
  let value: unknown = claims;
  for (const step of name.split('.')) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, step))
      return undefined;
    value = (value as Claims)[step];
  }
  return value;
}

function isScalar(value: unknown): value is Scalar {
  return typeof value === 'string' || typeof value === 'boolean' || Number.isSafeInteger(value);
}

/**
 * The policy without a file: claim `permissions`, a list of `namespace:role`, as Temporal's default claim mapper reads
 * it (temporalio/temporal, common/authorization/default_jwt_claim_mapper.go). `temporal-system` stands for every
 * namespace there; roles in any case; what has another form is skipped. A "*" is a letter like others in a namespace
 * there and gives nothing here.
 */
export const temporalPermissions: Policy = {
  grantsOf(claims) {
    const permissions = claimOf(claims, 'permissions');
    if (!Array.isArray(permissions)) return [];
    return permissions.slice(0, maxNamespaces).flatMap((permission) => grantOfPermission(permission) ?? []);
  },
};

const systemScope = 'temporal-system';
const rightsOfRole = new Map<string, readonly Right[]>([
  ['read', ['read', 'decode']],
  ['write', ['read', 'write']],
  ['worker', ['read', 'write']],
  ['admin', rights],
]);

function grantOfPermission(permission: unknown): Grant | undefined {
  if (typeof permission !== 'string') return undefined;
  const colon = permission.indexOf(':');
  const scope = permission.slice(0, Math.max(colon, 0));
  const rightsGiven = rightsOfRole.get(permission.slice(colon + 1).toLowerCase());
  const namespace = scope === systemScope ? '*' : namespaceOfClaim(scope);
  if (namespace === undefined || rightsGiven === undefined) return undefined;
  return parseGrant({ namespaces: [namespace], rights: rightsGiven });
}
