import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['packages/*/src/**/*.test.ts', 'test/**/*.test.ts'],
    env: { AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true' },
    pool: 'forks',
    maxWorkers: 2,
    // for what hangs; nothing is timed by them, and a machine with other work to do takes several times as long as a quiet one
    testTimeout: 180_000,
    hookTimeout: 240_000,
    teardownTimeout: 20_000,
    // one second by default, which a busy machine can take for anything
    expect: { poll: { timeout: 30_000, interval: 20 } },
  },
});
