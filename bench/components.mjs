// The real components of the tests, for plain Node: they are TypeScript, which Node 20 cannot import. Vite can, and has
// to stay: what they import later (the S3 SDK) goes through it as well.
import { fileURLToPath } from 'node:url';
import { createServer } from 'vite';

const vite = await createServer({
  root: fileURLToPath(new URL('..', import.meta.url)),
  configFile: false,
  appType: 'custom',
  logLevel: 'error',
  server: { middlewareMode: true, ws: false, watch: null, hmr: false },
  optimizeDeps: { noDiscovery: true },
});
const components = await vite.ssrLoadModule('/test/components/index.ts');

export const {
  freePort,
  openS3Client,
  requireOrSkip,
  spawnLogged,
  startTemporal,
  startVersitygw,
  tempDir,
  waitUntilReady,
} = components;
