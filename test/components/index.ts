// Real components for tests and benchmarks: local, without secrets, on loopback ports, gone with the process that
// started them. `npm run components` builds them; what is missing is skipped with a printed reason, or fails the run
// when LPS_REQUIRE (a comma list: s3,gcs,azure,temporal,temporal-ui,temporal-cli,postgres,registry,chromium,python)
// names it.
export { type Azurite, openContainer, startAzurite } from './azurite.ts';
export { type ComponentName, isRequired } from './components.mjs';
export { type FakeGcs, type FakeGcsOptions, startFakeGcs } from './fake-gcs.ts';
export { freePort, freePorts, type LoggedProcess, spawnLogged, tempDir, waitUntilReady } from './process.ts';
export { pythonWith } from './python.ts';
export { componentOrSkip, describeWith, requireOrSkip, skipped } from './require.ts';
export { startTemporal, type TemporalServer } from './temporal.ts';
export { type CliResult, type TemporalCli, temporalCli } from './temporal-cli.ts';
export { startTemporalUi, type TemporalUi, type TemporalUiOptions } from './temporal-ui.ts';
export { openS3Client, startVersitygw, type Versitygw, type VersitygwOptions } from './versitygw.ts';
