/**
 * The one place that decides who may do what.
 *
 *   onRequest    route's rule ─ public? go on ─ Authorization → Principal, else 401 ─ limits, else 429 ─ right anywhere? else 403
 *   preHandler   (the body is parsed, blobs are not read yet) namespaces of path, X-Namespace, query, body ─ all one's own? else 403
 *
 * A route without a rule fails at the start. Whether a blob exists is never looked at here, so absent and foreign ones
 * cannot be told apart.
 */
import { isLpsError, LpsError } from '@large-payload/core';
import type {
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  onRequestHookHandler,
  preHandlerHookHandler,
} from 'fastify';
import type { Access, Caller } from './access.js';
import { bearerToken } from './credentials.js';
import type { CallerLimits } from './limits.js';
import {
  type Authenticator,
  anonymous,
  may,
  mayEverywhere,
  maySomewhere,
  type Principal,
  type Right,
  soleNamespace,
} from './principal.js';
import { namesTwo, statedNamespace } from './stated-namespace.js';

export interface GateOptions {
  /** Absent: nobody is asked who he is, and everybody may do everything. */
  readonly authenticator?: Authenticator | undefined;
  readonly limits?: CallerLimits | undefined;
}

/** What becomes of the body of a request that is refused. */
export interface RefusedBodies {
  /** The rest of a body that nobody has begun to read does no harm. */
  refuse(request: FastifyRequest, reply: FastifyReply): void;
}

/** Registers the hooks. Before the routes: each of them must then have `config.access`, or CONFIG_INVALID is thrown. */
export function registerGate(
  app: FastifyInstance,
  { authenticator, limits }: GateOptions,
  bodies: RefusedBodies,
): void {
  app.decorateRequest('caller', null as unknown as Caller);
  app.addHook('onRoute', ({ config, method, url }) => {
    if (config?.access === undefined)
      throw new LpsError('CONFIG_INVALID', `the route ${String(method)} ${url} says nothing of who may call it`);
  });

  const admit = (request: FastifyRequest, reply: FastifyReply): void | Promise<void> => {
    const access = accessOf(request);
    if (access === 'public') return undefined;
    const enter = (principal: Principal): void => {
      if (limits !== undefined) leaveWhenOver(limits.enter(principal), request, reply);
      const right = access === 'known' ? undefined : access.right;
      request.caller = new RequestCaller(principal, right, statedNamespace(request));
      if (right !== undefined && !maySomewhere(principal, right)) throw forbidden(right);
    };
    return authenticator === undefined ? enter(anonymous) : authenticated(authenticator, request, reply).then(enter);
  };

  const decide = (request: FastifyRequest): void => {
    const access = accessOf(request);
    if (access === 'public' || access === 'known') return;
    const { caller } = request;
    if (access.over === 'handler') return;
    const over = access.over === 'everywhere' ? access.over : access.over(request);
    if (over === 'everywhere') caller.requireEverywhere();
    else caller.require(over);
  };

  app.addHook('onRequest', hookOf(admit, bodies));
  app.addHook('preHandler', hookOf(decide, bodies));
}

/** A hook that refuses when `decide` throws; where nobody is asked who he is, it costs no turn of the event loop. */
function hookOf(
  decide: (request: FastifyRequest, reply: FastifyReply) => void | Promise<void>,
  bodies: RefusedBodies,
): onRequestHookHandler & preHandlerHookHandler {
  return (request, reply, done) => {
    const refuse = (error: Error): void => {
      bodies.refuse(request, reply);
      done(error);
    };
    let decided: void | Promise<void>;
    try {
      decided = decide(request, reply);
    } catch (error) {
      return refuse(error as Error);
    }
    if (decided === undefined) done();
    else decided.then(() => done(), refuse);
  };
}

/** Also for a client that went away while he was asked who he is. */
function leaveWhenOver(leave: () => void, request: FastifyRequest, reply: FastifyReply): void {
  if (request.raw.socket.destroyed) leave();
  else reply.raw.once('close', leave);
}

/** What nobody routed is answered by the one who says that there is no such route: that is no secret. */
function accessOf(request: FastifyRequest): Access {
  return request.routeOptions.config?.access ?? 'public';
}

async function authenticated(
  authenticator: Authenticator,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<Principal> {
  try {
    return await authenticator.authenticate(bearerToken(request.headers.authorization));
  } catch (error) {
    if (isLpsError(error, 'UNAUTHENTICATED')) reply.header('www-authenticate', 'Bearer');
    throw error;
  }
}

class RequestCaller implements Caller {
  #named: readonly string[] = [];

  constructor(
    readonly principal: Principal,
    readonly right: Right | undefined,
    readonly stated: string | undefined,
  ) {}

  get namespace(): string | undefined {
    return this.stated ?? (this.right === undefined ? undefined : soleNamespace(this.principal, this.right));
  }

  get named(): readonly string[] {
    return this.#named;
  }

  require(namespaces: readonly string[]): void {
    this.#named = [...new Set([...this.#named, ...namespaces])];
    const { stated, namespace } = this;
    for (const one of namespaces) {
      if (stated !== undefined && one !== stated) throw namesTwo();
      if (!this.may(one)) throw forbidden(this.right);
    }
    if (namespaces.length > 0) return;
    if (namespace === undefined) this.requireEverywhere();
    else if (!this.may(namespace)) throw forbidden(this.right);
  }

  requireEverywhere(): void {
    if (this.right === undefined || mayEverywhere(this.principal, this.right)) return;
    throw new LpsError(
      'FORBIDDEN',
      `this needs the right ${this.right} on every namespace, or a namespace that is named`,
    );
  }

  may(namespace: string): boolean {
    if (this.stated !== undefined && this.stated !== namespace) return false;
    return this.right === undefined || may(this.principal, this.right, namespace);
  }
}

/** The same words whatever is there, and for whichever namespace. */
function forbidden(right: Right | undefined): LpsError {
  return new LpsError('FORBIDDEN', `this token has no right to ${right ?? 'that'} here`);
}
