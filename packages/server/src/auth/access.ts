/** What each route asks of its caller, and what a handler can ask about him. Decided in gate.ts, and nowhere else. */
import type { FastifyRequest } from 'fastify';
import type { Principal, Right } from './principal.js';

/**
 * - `public`: no credential is looked at.
 * - `known`: any valid credential.
 * - `everywhere`: the right, on every namespace.
 * - a function: the right on each namespace that the request names in its query or body (path and `X-Namespace` are looked
 *   at anyway). Called when the body is parsed; may throw INVALID_ARGUMENT, INVALID_KEY. An empty list: no namespace.
 * - `handler`: as a function, but only the handler can know: it calls `request.caller.require` before it does anything.
 */
export type Access =
  | 'public'
  | 'known'
  | {
      readonly right: Right;
      readonly over: 'everywhere' | 'handler' | ((request: FastifyRequest) => readonly string[] | 'everywhere');
    };

/** Whoever made a request, as its handler sees him. */
export interface Caller {
  readonly principal: Principal;
  /**
   * The namespace that the path or `X-Namespace` names, else the only one that the caller has the route's right on;
   * `undefined` when there is none of these.
   */
  readonly namespace: string | undefined;
  /** What `require` was called with. */
  readonly named: readonly string[];
  /**
   * Throws FORBIDDEN unless the caller has the route's right on each of these namespaces, and the request's path and
   * `X-Namespace` name no other one. With none: on `namespace`, or on every namespace when that is not known.
   */
  require(namespaces: readonly string[]): void;
  /** Throws FORBIDDEN unless the caller has the route's right on every namespace. */
  requireEverywhere(): void;
  /** What `require` of one namespace would say, as yes or no. */
  may(namespace: string): boolean;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly access?: Access;
    /** What the audit calls it; absent: not in the audit. */
    readonly audit?: string;
  }
  interface FastifyRequest {
    /** Not set on public routes. */
    caller: Caller;
  }
}
