/** For whoever runs the service: is it alive, can it store, what is it, how does it do. */
import type { FastifyInstance } from 'fastify';
import type { Metrics } from '../metrics.js';

export interface OperationsOptions {
  /** Throws unless a blob can be stored now. */
  ready(): Promise<void>;
  readonly version: string;
  readonly metrics?: Metrics;
}

const everybody = { config: { access: 'public' } } as const;
const known = { config: { access: 'known' } } as const;

/** `describe` makes the OpenAPI document; it is called once, when somebody asks. */
export function registerOperations(app: FastifyInstance, options: OperationsOptions, describe: () => object): void {
  app.get('/healthz', everybody, async (_request, reply) => reply.send({ status: 'ok' }));

  app.get('/readyz', everybody, async (_request, reply) => {
    await options.ready();
    return reply.send({ status: 'ready' });
  });

  app.get('/version', known, async (_request, reply) =>
    reply.send({ name: 'large-payload-service', version: options.version, node: process.version, api: ['v2', 'v3'] }),
  );

  let document: string | undefined;
  app.get('/openapi.json', known, async (_request, reply) => {
    document ??= JSON.stringify(describe());
    return reply.header('content-type', 'application/json').send(document);
  });

  const registry = options.metrics?.registry;
  if (registry === undefined) return;
  app.get('/metrics', known, async (_request, reply) =>
    reply.header('content-type', registry.contentType).send(await registry.metrics()),
  );
}
