/** What a cache node counts, beside the metrics of the service. */
import type { BlobInfo, Lookup } from '@large-payload/core';
import { Counter, Gauge } from 'prom-client';
import type { Metrics } from '../metrics.js';
import type { LeaseState } from '../nodes/lease-holder.js';
import type { TouchState } from './touch-forwarder.js';

export interface CacheMetricSources {
  lease(): LeaseState;
  touches(): TouchState;
  kept(): Readonly<Record<'memory' | 'disk', { readonly bytes: number; readonly blobs: number }>>;
  readonly maxStalenessMs: number;
}

export interface CacheMetrics {
  served(result: Lookup, info: BlobInfo): void;
  evicted(place: 'memory' | 'disk'): void;
  upstreamError(code: string): void;
}

export function watchCache(metrics: Metrics, sources: CacheMetricSources): CacheMetrics {
  const registers = [metrics.registry];
  const bytes = new Counter({
    name: 'lps_cache_served_bytes_total',
    help: 'Bytes of blobs that were read whole, by where they were answered from',
    labelNames: ['result'],
    registers,
  });
  const evictions = new Counter({
    name: 'lps_cache_evictions_total',
    help: 'Blobs that made room for others',
    labelNames: ['place'],
    registers,
  });
  const errors = new Counter({
    name: 'lps_cache_upstream_errors_total',
    help: 'Calls to upstream that failed, by code',
    labelNames: ['code'],
    registers,
  });
  const gauge = (name: string, help: string, value: () => number): void => {
    new Gauge({
      ...{ name, help, registers },
      collect() {
        this.set(value());
      },
    });
  };
  const byPlace = (name: string, help: string, what: 'bytes' | 'blobs'): void => {
    new Gauge({
      ...{ name, help, registers, labelNames: ['place'] },
      collect() {
        const kept = sources.kept();
        for (const place of ['memory', 'disk'] as const) this.set({ place }, kept[place][what]);
      },
    });
  };
  byPlace('lps_cache_bytes', 'Bytes that are kept', 'bytes');
  byPlace('lps_cache_blobs', 'Blobs that are kept', 'blobs');
  gauge('lps_cache_lease_fresh', 'Whether what is kept is served without a question', () =>
    Number(sources.lease().isFresh),
  );
  gauge('lps_cache_staleness_seconds', 'Since upstream was last heard from, as far as a lease lasts', () => {
    const { isFresh, endsInMs } = sources.lease();
    return (isFresh ? Math.max(0, sources.maxStalenessMs - endsInMs) : sources.maxStalenessMs) / 1000;
  });
  gauge(
    'lps_cache_events_applied',
    'Deletions and takedowns that were heard of since the start',
    () => sources.lease().applied,
  );
  gauge('lps_cache_touches_waiting', 'Uses that upstream has not been told of yet', () => sources.touches().waiting);
  gauge(
    'lps_cache_touches_forwarded',
    'Uses that upstream was told of since the start',
    () => sources.touches().forwarded,
  );
  return {
    served(result, { size }) {
      metrics.cacheLookup(result);
      bytes.inc({ result }, size);
    },
    evicted: (place) => evictions.inc({ place }),
    upstreamError: (code) => errors.inc({ code }),
  };
}
