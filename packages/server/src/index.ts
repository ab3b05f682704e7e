import type { Logger } from 'pino';
import type { Config } from './config/settings.js';
import type { Service } from './service.js';

export { type CodecHandler, type CodecHandlerOptions, codecRoutes } from './codec/handler.js';
export type { Config } from './config/settings.js';
export { createLogger } from './logging.js';
export {
  createRequestHandler,
  type HandlerLogger,
  type RequestHandler,
  type RequestHandlerOptions,
  serverOptions,
} from './request-handler.js';
export type { Service } from './service.js';
export { version } from './version.js';

/** Starts everything of `lps serve`; what fails on the way is undone. Throws LpsError. */
export async function startService(config: Config, logger: Logger): Promise<Service> {
  // loaded only here: whoever embeds the routes has no use for the catalog and its database
  const service = await import('./service.js');
  return service.startService(config, logger);
}
