/** Compressed streams, gzip (RFC 1952) and zlib (RFC 1950), wherever in some bytes they begin. */
import { constants, inflateRawSync } from 'node:zlib';

export interface StreamLimits {
  /** That may be unpacked. */
  readonly bytes: number;
  takeBytes(count: number): boolean;
  takeStream(): boolean;
}

interface Magic {
  readonly bytes: Buffer;
  /** Where the first block begins; `undefined` when this is no header. Checksums at the end are not looked at. */
  blockAt(bytes: Buffer, at: number): number | undefined;
}

/** A digest has 256 bits, so nothing shorter packs one. */
const minStreamBytes = 32;
/** Tried first: what only looks like a stream fails early, and must not cost more than this. */
const probeBytes = 4096;

const gzip: Magic = { bytes: Buffer.from([0x1f, 0x8b, 0x08]), blockAt: behindGzipHeader };
// a window of 32 kB at each of the four levels: what every common library writes
const zlib = [0x01, 0x5e, 0x9c, 0xda].map((flags): Magic => {
  const blockAt = (bytes: Buffer, at: number): number | undefined => (isText(bytes, at + 2) ? undefined : at + 2);
  return { bytes: Buffer.from([0x78, flags]), blockAt };
});
const magics: readonly Magic[] = [gzip, ...zlib];

/** Calls back with the unpacked bytes of each stream. `false`: the limits did not allow for all of them. */
export function unpackStreams(bytes: Buffer, limits: StreamLimits, found: (unpacked: Buffer) => void): boolean {
  let isComplete = true;
  for (const magic of magics) {
    let at = bytes.indexOf(magic.bytes);
    while (at >= 0 && bytes.length - at >= minStreamBytes) {
      let end = at + magic.bytes.length;
      const block = magic.blockAt(bytes, at);
      if (block !== undefined && isBlock(bytes, block)) {
        if (!limits.takeStream()) return false;
        const stream = unpacked(bytes.subarray(block), limits);
        if (stream === 'too large') isComplete = false;
        else if (stream !== undefined) {
          found(stream.output);
          end = Math.max(end, block + stream.consumed);
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

function unpacked(input: Buffer, limits: StreamLimits): Stream | 'too large' | undefined {
  if (input.length > probeBytes) {
    const probe = attempt(input.subarray(0, probeBytes), limits.bytes);
    if (probe === undefined) return undefined;
  }
  const stream = attempt(input, limits.bytes);
  if (stream === 'too large') {
    limits.takeBytes(limits.bytes); // so much was unpacked, in vain
    return stream;
  }
  // a stream that breaks late cost as much as one that does not, and another may begin at its next byte
  if (!limits.takeBytes(stream === undefined ? Math.max(0, input.length - probeBytes) : stream.output.length))
    return 'too large';
  return stream;
}

/** What comes before an early end counts. */
function attempt(input: Buffer, maxBytes: number): Stream | 'too large' | undefined {
  const options = { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: Math.max(1, maxBytes), info: true };
  try {
    const { buffer, engine } = inflateRawSync(input, options) as unknown as {
      readonly buffer: Buffer;
      readonly engine: { readonly bytesWritten: number };
    };
    return { output: buffer, consumed: engine.bytesWritten };
  } catch (error) {
    return (error as { code?: unknown }).code === 'ERR_BUFFER_TOO_LARGE' ? 'too large' : undefined;
  }
}

const flag = { reserved: 0xe0, extra: 0x04, name: 0x08, comment: 0x10, checksum: 0x02 } as const;

function behindGzipHeader(bytes: Buffer, at: number): number | undefined {
  const flags = bytes[at + 3] ?? flag.reserved;
  if ((flags & flag.reserved) !== 0) return undefined;
  let next = at + 10;
  if ((flags & flag.extra) !== 0) next += 2 + (bytes[next] ?? 0) + 256 * (bytes[next + 1] ?? 0);
  for (const text of [flag.name, flag.comment]) {
    if ((flags & text) === 0) continue;
    const length = bytes.subarray(next, next + 4096).indexOf(0);
    if (length < 0) return undefined;
    next += length + 1;
  }
  return (flags & flag.checksum) === 0 ? next : next + 2;
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
