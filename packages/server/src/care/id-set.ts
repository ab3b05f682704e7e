const idsPerPart = 65_536;

/** Which ids of rows were seen: a bit each, so 1e8 of them take 12.5 MB. */
export class IdSet {
  readonly #parts = new Map<number, Uint8Array>();

  add(id: bigint): void {
    const [part, byte, bit] = placeOf(id);
    let bits = this.#parts.get(part);
    if (bits === undefined) {
      bits = new Uint8Array(idsPerPart / 8);
      this.#parts.set(part, bits);
    }
    bits[byte] = (bits[byte] ?? 0) | bit;
  }

  has(id: bigint): boolean {
    const [part, byte, bit] = placeOf(id);
    return ((this.#parts.get(part)?.[byte] ?? 0) & bit) !== 0;
  }
}

function placeOf(id: bigint): [part: number, byte: number, bit: number] {
  const number = Number(id);
  const within = number % idsPerPart;
  return [Math.floor(number / idsPerPart), within >> 3, 1 << (within & 7)];
}
