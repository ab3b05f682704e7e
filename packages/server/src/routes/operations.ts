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

export function registerOperations(app: FastifyInstance, options: OperationsOptions): void {
  app.get('/healthz', everybody, async (_request, reply) => reply.send({ status: 'ok' }));

  app.get('/readyz', everybody, async (_request, reply) => {
    await options.ready();
    return reply.send({ status: 'ready' });
  });

  app.get('/version', known, async (_request, reply) =>
    reply.send({ name: 'large-payload-service', version: options.version, node: process.version, api: ['v2', 'v3'] }),
  );

  const registry = options.metrics?.registry;
  if (registry === undefined) return;
  app.get('/metrics', known, async (_request, reply) =>
    reply.header('content-type', registry.contentType).send(await registry.metrics()),
  );
}
