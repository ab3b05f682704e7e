import type { StoreEvent } from '@large-payload/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** Every metric of the service. Labels have few values: routes are patterns, never paths. */
export interface Metrics {
  readonly registry: Registry;
  request(labels: { route: string; method: string; status: number }, seconds: number): void;
  received(route: string, bytes: number): void;
  sent(route: string, bytes: number): void;
  /** A blob of `bytes` whose client was sent to the bucket, or came from there. */
  direct(operation: 'upload' | 'download', bytes: number): void;
  /** An upload of `bytes` that was not stored again. */
  deduplicated(bytes: number): void;
  storeEvent(event: StoreEvent): void;
  cacheLookup(result: 'memory' | 'disk' | 'joined' | 'miss'): void;
  alarm(kind: string): void;
}

export interface MetricSources {
  uploadsInFlight(): number;
  /** Absent without a catalog. */
  poolStats?(): { total: number; idle: number; waiting: number };
  /** Absent without direct uploads. */
  directUploads?(): number;
  /** Absent where nobody holds leases on reading. */
  readLease?(): { readonly isFresh: boolean; readonly endsInMs: number; readonly applied: number };
  /** Absent without durable work. */
  durable?(): { running: boolean; leads: boolean; stranded: number };
}

export interface MetricOptions {
  /** The process' own as well: event loop, memory, garbage collection. Their observers last as long as the process. Default true. */
  readonly process?: boolean;
}

/** Metrics of one service, in a registry of their own. */
export function createMetrics(sources: MetricSources, options: MetricOptions = {}): Metrics {
  const registry = new Registry();
  const registers = [registry];
  if (options.process !== false) collectDefaultMetrics({ register: registry, prefix: 'lps_' });

  const requests = new Counter({
    name: 'lps_http_requests_total',
    help: 'Requests answered',
    labelNames: ['route', 'method', 'status'],
    registers,
  });
  const requestSeconds = new Histogram({
    name: 'lps_http_request_seconds',
    help: 'From the head of a request to the end of its answer',
    labelNames: ['route', 'method'],
    buckets: seconds,
    registers,
  });
  const received = new Counter({
    name: 'lps_http_received_bytes_total',
    help: 'Bytes of blobs received',
    labelNames: ['route'],
    registers,
  });
  const sent = new Counter({
    name: 'lps_http_sent_bytes_total',
    help: 'Bytes of blobs sent',
    labelNames: ['route'],
    registers,
  });
  const directBlobs = new Counter({
    name: 'lps_direct_transfers_total',
    help: 'Uploads that were completed past the service, and downloads that were sent to the bucket',
    labelNames: ['operation'],
    registers,
  });
  const directBytes = new Counter({
    name: 'lps_direct_bytes_total',
    help: 'Bytes of those blobs',
    labelNames: ['operation'],
    registers,
  });
  const dedupeHits = new Counter({
    name: 'lps_dedupe_hits_total',
    help: 'Uploads of blobs that were present',
    registers,
  });
  const dedupeBytes = new Counter({
    name: 'lps_dedupe_saved_bytes_total',
    help: 'Bytes of those uploads, not stored again',
    registers,
  });
  const storeOperations = new Counter({
    name: 'lps_store_operations_total',
    help: 'Calls to the store, by outcome or error code',
    labelNames: ['store', 'operation', 'outcome'],
    registers,
  });
  const storeSeconds = new Histogram({
    name: 'lps_store_operation_seconds',
    help: 'Until the store answered; for a get until its first byte',
    labelNames: ['store', 'operation'],
    buckets: seconds,
    registers,
  });
  const lookups = new Counter({
    name: 'lps_cache_lookups_total',
    help: 'Whole reads, by where they were answered from',
    labelNames: ['result'],
    registers,
  });
  const alarms = new Counter({
    name: 'lps_alarms_total',
    help: 'Things that an operator must know',
    labelNames: ['kind'],
    registers,
  });
  new Gauge({
    name: 'lps_uploads_in_flight',
    help: 'Uploads under way',
    registers,
    collect() {
      this.set(sources.uploadsInFlight());
    },
  });
  const { poolStats } = sources;
  if (poolStats !== undefined) watchPool(poolStats, registers);
  const { directUploads } = sources;
  if (directUploads !== undefined) {
    new Gauge({
      name: 'lps_direct_uploads_open',
      help: 'Direct uploads that were begun here and have not ended',
      registers,
      collect() {
        this.set(directUploads());
      },
    });
  }
  if (sources.durable !== undefined) watchDurable(sources.durable, registers);
  if (sources.readLease !== undefined) watchReadLease(sources.readLease, registers);

  return {
    registry,
    request({ route, method, status }, elapsed) {
      requests.inc({ route, method, status: String(status) });
      requestSeconds.observe({ route, method }, elapsed);
    },
    received: (route, bytes) => received.inc({ route }, bytes),
    sent: (route, bytes) => sent.inc({ route }, bytes),
    direct(operation, bytes) {
      directBlobs.inc({ operation });
      directBytes.inc({ operation }, bytes);
    },
    deduplicated(bytes) {
      dedupeHits.inc();
      dedupeBytes.inc(bytes);
    },
    storeEvent({ store, operation, outcome, seconds: elapsed }) {
      storeOperations.inc({ store, operation, outcome });
      storeSeconds.observe({ store, operation }, elapsed);
    },
    cacheLookup: (result) => lookups.inc({ result }),
    alarm: (kind) => alarms.inc({ kind }),
  };
}

function watchPool(poolStats: NonNullable<MetricSources['poolStats']>, registers: Registry[]): void {
  new Gauge({
    name: 'lps_catalog_pool_connections',
    help: 'Connections to Postgres, and calls that wait for one',
    labelNames: ['state'],
    registers,
    collect() {
      const { total, idle, waiting } = poolStats();
      this.set({ state: 'idle' }, idle);
      this.set({ state: 'busy' }, total - idle);
      this.set({ state: 'waiting' }, waiting);
    },
  });
}

function watchDurable(durable: NonNullable<MetricSources['durable']>, registers: Registry[]): void {
  const gauges = [
    ['lps_durable_running', 'Whether this replica runs workflows', ({ running }) => Number(running)],
    ['lps_leader', 'Whether this replica leads; the sum over all of them is 1', ({ leads }) => Number(leads)],
    [
      'lps_workflows_stranded',
      'Unfinished workflows whose code no replica has; counted by the leader',
      ({ stranded }) => stranded,
    ],
  ] as const satisfies [string, string, (state: ReturnType<typeof durable>) => number][];
  for (const [name, help, numberOf] of gauges) {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(numberOf(durable()));
      },
    });
  }
}

function watchReadLease(readLease: NonNullable<MetricSources['readLease']>, registers: Registry[]): void {
  new Gauge({
    name: 'lps_read_lease_fresh',
    help: 'Whether reads are answered from what is kept here (1), or past every cache (0)',
    registers,
    collect() {
      this.set(readLease().isFresh ? 1 : 0);
    },
  });
  new Gauge({
    name: 'lps_read_lease_seconds',
    help: 'Until the lease on reading ends, unless it is renewed',
    registers,
    collect() {
      this.set(readLease().endsInMs / 1000);
    },
  });
  new Counter({
    name: 'lps_read_lease_events_total',
    help: 'Takedowns and deletions that were heard of and applied to what is kept here',
    registers,
    collect() {
      this.reset();
      this.inc(readLease().applied);
    },
  });
}
