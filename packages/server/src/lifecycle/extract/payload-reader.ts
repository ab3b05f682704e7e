/** What one payload holds: its claim, after the codecs, and whatever the search finds in it and in its decoded forms. */
import { type Digest, isLpsError } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import type { Decoder } from './decoder.js';
import { type Findings, quoted, tooMuch } from './findings.js';
import type { Budget, ExtractLimits } from './limits.js';
import { claimOf, metadataText, type PayloadClaim } from './payload-claims.js';
import { minSearchedBytes, Search } from './search.js';

export interface ReaderOptions {
  /** In the order of decoding. */
  readonly decoders: readonly Decoder[];
  readonly claimFree: ReadonlySet<string>;
  readonly limits: ExtractLimits;
}

/** What the SDKs write without a codec. */
const understood = new Set(['json/plain', 'json/protobuf', 'binary/plain', 'binary/protobuf', 'binary/null']);
const maxRounds = 4;
const pauseBytes = 1024 * 1024;

/** The payloads and bytes of one message. */
export class PayloadReader {
  readonly #options: ReaderOptions;
  readonly #findings: Findings;
  readonly #budget: Budget;
  #sincePause = 0;

  constructor(options: ReaderOptions, findings: Findings, budget: Budget) {
    this.#options = options;
    this.#findings = findings;
    this.#budget = budget;
  }

  /** A payload of the message. */
  async read(payload: Payload): Promise<void> {
    this.#budget.nextPayload();
    await this.#read(payload, 0, false);
  }

  /** A field of the message that is no payload. */
  async searchBytes(bytes: Uint8Array): Promise<void> {
    if (bytes.length < minSearchedBytes) return;
    this.#budget.nextPayload();
    await this.#search([bytes], undefined, 0);
  }

  async searchText(text: string): Promise<void> {
    if (text.length >= minSearchedBytes) await this.searchBytes(Buffer.from(text, 'utf8'));
  }

  async #read(payload: Payload, level: number, isSearched: boolean): Promise<void> {
    const { forms, claim } = await this.#decoded(payload);
    if (claim !== undefined) this.#note(claim);
    await this.#search(forms.slice(isSearched ? 1 : 0).flatMap(bytesIn), claim?.known, level);
  }

  #note({ key, digest, gap }: PayloadClaim): void {
    if (key !== undefined) this.#findings.addKey(key);
    if (digest !== undefined) this.#findings.add({ digest });
    if (gap !== undefined) this.#findings.gap(gap);
  }

  /** Its forms on the way through the codecs, up to the claim that one of them is. */
  async #decoded(payload: Payload): Promise<{ readonly forms: readonly Payload[]; readonly claim?: PayloadClaim }> {
    const forms = [payload];
    let claim = claimOf(payload, this.#options.claimFree);
    let current = payload;
    try {
      // more than once: what came through a proxy may have been encoded by both, with the same codecs
      for (let round = 0, before: Payload | undefined; round < maxRounds && before !== current; round += 1) {
        before = current;
        for (const decoder of this.#options.decoders) {
          if (claim !== undefined) return { forms, claim };
          const next = await decoder.decode(current);
          if (isSame(current, next)) continue;
          forms.push(next);
          current = next;
          claim = claimOf(current, this.#options.claimFree);
        }
      }
    } catch (error) {
      const encoding = metadataText(current, 'encoding') ?? '';
      // by the operator's word; the key may be gone
      if (!this.#options.claimFree.has(encoding))
        this.#findings.gap(`a payload of the encoding ${quoted(encoding)} cannot be decoded: ${reasonOf(error)}`);
      return { forms };
    }
    if (claim !== undefined) return { forms, claim };
    this.#checkEncoding(current);
    return { forms };
  }

  #checkEncoding(payload: Payload): void {
    const encoding = metadataText(payload, 'encoding');
    if (encoding !== undefined && (understood.has(encoding) || this.#options.claimFree.has(encoding))) return;
    if (encoding === undefined && (payload.data?.length ?? 0) === 0) return;
    const name = encoding === undefined ? 'that there is none' : quoted(encoding);
    this.#findings.gap(
      `the encoding of a payload is not understood (${name}): configure the codec that decodes it, or declare it free of claims (claim-free-encodings)`,
    );
  }

  async #search(parts: readonly Uint8Array[], known: ReadonlySet<Digest> | undefined, level: number): Promise<void> {
    const embedded: { readonly payload: Payload; readonly isSearched: boolean }[] = [];
    const search = new Search({
      findings: this.#findings,
      budget: this.#budget,
      depth: this.#options.limits.depth,
      onPayload: (payload, isSearched) => embedded.push({ payload, isSearched }),
      ...(known === undefined ? {} : { known }),
    });
    for (const part of parts) {
      const before = this.#budget.bytes;
      search.run(part);
      await this.#pause(part.length + before - this.#budget.bytes);
    }
    if (embedded.length === 0) return;
    if (level >= this.#options.limits.payloadDepth) this.#findings.gap(tooMuch);
    else for (const { payload, isSearched } of embedded) await this.#read(payload, level + 1, isSearched);
  }

  /** Others have their turn, however much there is to search. */
  async #pause(bytes: number): Promise<void> {
    this.#sincePause += bytes;
    if (this.#sincePause < pauseBytes) return;
    this.#sincePause = 0;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** What a codec threw that is not ours is not shown but by its name: it may quote what it could not read. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'it failed';
  return isLpsError(error, 'INTERNAL') && error.cause instanceof Error
    ? `its codec threw ${error.cause.name}`
    : error.message;
}

function isSame(before: Payload, after: Payload): boolean {
  if (before === after) return true;
  const names = Object.keys(before.metadata ?? {});
  if (names.length !== Object.keys(after.metadata ?? {}).length || !areEqual(before.data, after.data)) return false;
  return names.every((name) => areEqual(before.metadata?.[name], after.metadata?.[name]));
}

function areEqual(one: Uint8Array | null | undefined, other: Uint8Array | null | undefined): boolean {
  return one === other || Buffer.compare(one ?? nothing, other ?? nothing) === 0;
}

const nothing = new Uint8Array();

/** All that a payload has in it, names as well. */
function bytesIn({ metadata, data }: Payload): Uint8Array[] {
  const parts = Object.entries(metadata ?? {}).flatMap(([name, value]) => [Buffer.from(name), value]);
  return [...parts, ...(data == null ? [] : [data])].filter(({ length }) => length >= minSearchedBytes);
}
