/**
 * The only thing that an application adds: options of its clients and workers, the same for both.
 *
 * MODE=plugin  everything: large payloads, and what becomes of them and of heartbeats while the service is away
 * MODE=codec   the plugin's codec alone, by hand: claims of the Go codec in place of large payloads
 * MODE=driver  the driver alone, by hand: Temporal's External Storage; the Web UI shows the payloads' sizes
 */
import { externalStorage, LargePayloadCodec, LargePayloadPlugin } from '@large-payload/temporal';

const url = process.env.LPS_URL ?? 'http://127.0.0.1:8577';

export const namespace = process.env.TEMPORAL_NAMESPACE ?? 'default';

export function largePayloads() {
  const mode = process.env.MODE ?? 'plugin';
  if (mode === 'plugin') return { plugins: [new LargePayloadPlugin({ url })] };
  if (mode === 'codec') return { dataConverter: { payloadCodecs: [new LargePayloadCodec({ url, namespace })] } };
  if (mode === 'driver') return { dataConverter: { externalStorage: externalStorage({ url, namespace }) } };
  throw new Error(`MODE is plugin, codec or driver, not ${mode}`);
}
