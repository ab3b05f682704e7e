import { describe, expect, it } from 'vitest';
import { loadConfig } from './load.js';
import { allSettings } from './settings.js';
import { settingsJson, settingsTable } from './show.js';

const loaded = loadConfig({
  flags: { port: '9000', 's3-region': 'eu-1' },
  env: { LPS_DATABASE_URL: 'postgres://lps:hush@db/lps', AWS_ENDPOINT_URL: 'http://minio:9000' },
  cwd: '/srv',
});

describe('the settings shown', () => {
  it('name each value and where it came from', () => {
    const table = settingsTable(loaded);
    expect(table).toMatch(/^port +9000 +--port$/m);
    expect(table).toMatch(/^max-blob-bytes +1GiB +default$/m);
    expect(table).toMatch(/^s3-endpoint +http:\/\/minio:9000 +AWS_ENDPOINT_URL$/m);
    expect(table).toMatch(/^s3-bucket +\(not set\) +default$/m);
    expect(table).toMatch(/^data-dir +\/srv\/data +default$/m);
    expect(table.trim().split('\n')).toHaveLength(allSettings.length);
  });

  it('are JSON for scripts', () => {
    const json = JSON.parse(settingsJson(loaded));
    expect(json['max-blob-bytes']).toEqual({ value: 1024 ** 3, source: 'default' });
    expect(json['s3-bucket']).toEqual({ value: null, source: 'default' });
    expect(json['database-url']).toEqual({ value: '********', source: 'LPS_DATABASE_URL' });
    expect(Object.keys(json)).toHaveLength(allSettings.length);
  });

  it('hide secrets', () => {
    expect(settingsTable(loaded)).toMatch(/^database-url +\*{8} +LPS_DATABASE_URL$/m);
    expect(settingsTable(loaded) + settingsJson(loaded)).not.toContain('hush');
  });
});
