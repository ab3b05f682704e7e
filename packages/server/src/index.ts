export type { Config } from './config/settings.js';
export { createLogger } from './logging.js';
export { type Service, startService, version } from './service.js';
