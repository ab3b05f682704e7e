/**
 * The only thing that an application changes: the data converter of its clients and workers, the same for both.
 *
 * MODE=codec   claims of the Go codec in place of large payloads; for histories shared with workers in Go
 * MODE=driver  Temporal's External Storage; the Web UI shows the payloads' sizes
 */
import { externalStorage, LargePayloadCodec } from '@large-payload/temporal';

const url = process.env.LPS_URL ?? 'http://127.0.0.1:8577';

export const namespace = process.env.TEMPORAL_NAMESPACE ?? 'default';

/** @returns {import('@temporalio/client').DataConverter} */
export function dataConverter() {
  const mode = process.env.MODE ?? 'codec';
  if (mode === 'codec') return { payloadCodecs: [new LargePayloadCodec({ url, namespace })] };
  if (mode === 'driver') return { externalStorage: externalStorage({ url, namespace }) };
  throw new Error(`MODE is codec or driver, not ${mode}`);
}
