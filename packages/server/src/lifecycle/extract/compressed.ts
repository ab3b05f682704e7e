/** Compressed streams, gzip (RFC 1952) and zlib (RFC 1950), wherever in some bytes they begin. */
import { constants, gunzipSync, inflateSync, type ZlibOptions } from 'node:zlib';

export interface StreamLimits {
  /** That may be unpacked. */
  readonly bytes: number;
  takeBytes(count: number): boolean;
  takeStream(): boolean;
}

interface Magic {
  readonly bytes: Buffer;
  readonly unpack: (bytes: Uint8Array, options: ZlibOptions) => Buffer;
  isPlausible(bytes: Buffer, at: number): boolean;
}

/** A digest has 256 bits, so nothing shorter packs one. */
const minStreamBytes = 32;
/** Tried first: what only looks like a stream fails early, and must not cost more than this. */
const probeBytes = 4096;

const gzip: Magic = {
  bytes: Buffer.from([0x1f, 0x8b, 0x08]),
  unpack: gunzipSync,
  // the upper bits of the flags are reserved
  isPlausible: (bytes, at) => ((bytes[at + 3] ?? 0xff) & 0xe0) === 0,
};
// a window of 32 kB at each of the four levels: what every common library writes
const zlib = [0x01, 0x5e, 0x9c, 0xda].map((flags): Magic => {
  const isPlausible = (bytes: Buffer, at: number): boolean => isBlock(bytes, at + 2) && !isText(bytes, at + 2);
  return { bytes: Buffer.from([0x78, flags]), unpack: inflateSync, isPlausible };
});
const magics: readonly Magic[] = [gzip, ...zlib];

/** Calls back with the unpacked bytes of each stream. `false`: the limits did not allow for all of them. */
export function unpackStreams(bytes: Buffer, limits: StreamLimits, found: (unpacked: Buffer) => void): boolean {
  let isComplete = true;
  for (const magic of magics) {
    let at = bytes.indexOf(magic.bytes);
    while (at >= 0 && bytes.length - at >= minStreamBytes) {
      let end = at + magic.bytes.length;
      if (magic.isPlausible(bytes, at)) {
        if (!limits.takeStream()) return false;
        const stream = unpacked(bytes.subarray(at), magic, limits);
        if (stream === 'too large') isComplete = false;
        else if (stream !== undefined) {
          found(stream.output);
          end = at + Math.max(stream.consumed, magic.bytes.length);
        }
      }
      at = bytes.indexOf(magic.bytes, end);
    }
  }
  return isComplete;
}

interface Stream {
  readonly output: Buffer;
  /** Bytes of the input. */
  readonly consumed: number;
}

function unpacked(input: Buffer, magic: Magic, limits: StreamLimits): Stream | 'too large' | undefined {
  if (input.length > probeBytes) {
    const probe = attempt(input.subarray(0, probeBytes), magic, limits.bytes);
    if (probe === undefined) return undefined;
  }
  const stream = attempt(input, magic, limits.bytes);
  if (stream === 'too large') return stream;
  // a stream that breaks late cost as much as one that does not, and another may begin at its next byte
  if (!limits.takeBytes(stream === undefined ? Math.max(0, input.length - probeBytes) : stream.output.length))
    return 'too large';
  return stream;
}

/** What comes before an early end counts. */
function attempt(input: Buffer, { unpack }: Magic, maxBytes: number): Stream | 'too large' | undefined {
  const options = { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: Math.max(1, maxBytes), info: true };
  try {
    const { buffer, engine } = unpack(input, options) as unknown as {
      readonly buffer: Buffer;
      readonly engine: { readonly bytesWritten: number };
    };
    return { output: buffer, consumed: engine.bytesWritten };
  } catch (error) {
    return (error as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE' ? 'too large' : undefined;
  }
}

/** Whether a block of DEFLATE can begin here (RFC 1951, 3.2.3 to 3.2.7). */
function isBlock(bytes: Buffer, at: number): boolean {
  const head = bytes[at] ?? 0xff;
  const type = (head >> 1) & 3;
  if (type === 0) return bytes.length >= at + 5 && (bytes.readUInt16LE(at + 1) ^ bytes.readUInt16LE(at + 3)) === 0xffff;
  if (type === 2) return head >> 3 <= 29 && ((bytes[at + 1] ?? 0xff) & 31) <= 29;
  return type === 1;
}

/** Packed bytes are anything; 30 of them in a row are never all ASCII. */
function isText(bytes: Buffer, at: number): boolean {
  for (let index = at; index < at + minStreamBytes - 2; index += 1) {
    const byte = bytes[index] ?? 0;
    if (byte >= 0x80 || byte < 0x09) return false;
  }
  return true;
}
