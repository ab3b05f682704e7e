/**
 * From any decoded message of Temporal's API to the blobs that it holds. Two ways, always both:
 *
 *   by type        every Payload that the descriptors know of, through the configured codecs, to its claim: key → digest
 *                  and namespace. What is not understood is a gap
 *   by searching   digests in all bytes and texts, whatever is wrapped around them (search.ts): a digest without a namespace
 *
 * What the search finds too much only keeps a blob. What cannot be read makes a gap, and a mark with a gap permits nothing.
 */
import { type Clock, systemClock } from '@large-payload/core';
import type { PayloadCodec } from '@temporalio/common';
import { Decoder } from './decoder.js';
import { typeNamed } from './descriptors.js';
import { type Extraction, Findings, quoted, tooMuch } from './findings.js';
import { Budget, defaultLimits, type ExtractLimits } from './limits.js';
import { type Part, partsOf } from './message-walk.js';
import { PayloadReader, type ReaderOptions } from './payload-reader.js';

export type { Extraction } from './findings.js';
export type { ExtractLimits } from './limits.js';

export interface ExtractorOptions {
  /** Of the workers and of a proxy, each in the order of encoding: as for the codec server (pipeline.ts). */
  readonly codecs?: {
    readonly preStorage?: readonly PayloadCodec[];
    readonly postStorage?: readonly PayloadCodec[];
  };
  /** Of payloads that no codec here decodes and that never hold a claim, by an operator's word. `driver:{name}` for references. */
  readonly claimFreeEncodings?: readonly string[];
  readonly limits?: Partial<ExtractLimits>;
  readonly clock?: Clock;
}

export interface Extractor {
  /** What one message holds, by the name of its type: `temporal.api.history.v1.HistoryEvent`. Never throws. */
  extract(typeName: string, message: object): Promise<Extraction>;
  /** For the messages of one holder together. */
  collect(): Collection;
}

export interface Collection {
  /** Never throws: whatever is wrong with a message is a gap. */
  add(typeName: string, message: object): Promise<void>;
  result(): Extraction;
}

export function openExtractor(given: ExtractorOptions = {}): Extractor {
  const { codecs, claimFreeEncodings = [], clock = systemClock } = given;
  const { preStorage = [], postStorage = [] } = codecs ?? {};
  const limits = { ...defaultLimits, ...given.limits };
  const decoding = [...[...postStorage].reverse(), ...[...preStorage].reverse()];
  const options: ReaderOptions = {
    decoders: decoding.map((codec) => new Decoder(codec, limits.decodeMs, clock)),
    claimFree: new Set(claimFreeEncodings),
    limits,
  };
  const collect = (): Collection => new Collected(options);
  return {
    collect,
    async extract(typeName, message) {
      const collection = collect();
      await collection.add(typeName, message);
      return collection.result();
    },
  };
}

class Collected implements Collection {
  readonly #options: ReaderOptions;
  readonly #findings: Findings;

  constructor(options: ReaderOptions) {
    this.#options = options;
    this.#findings = new Findings(options.limits);
  }

  async add(typeName: string, message: object): Promise<void> {
    try {
      await this.#add(typeName, message);
    } catch (error) {
      this.#findings.gap(`a message of the type ${quoted(typeName)} cannot be read: ${(error as Error)?.message}`);
    }
  }

  result(): Extraction {
    return this.#findings.result();
  }

  async #add(typeName: string, message: object): Promise<void> {
    const type = typeNamed(typeName);
    if (type === undefined) {
      this.#findings.gap(`the SDK does not know the type ${quoted(typeName)}`);
      return;
    }
    const budget = new Budget(this.#options.limits);
    const reader = new PayloadReader(this.#options, this.#findings, budget);
    for (const part of partsOf(type, message)) {
      if (!budget.takePart()) {
        this.#findings.gap(tooMuch);
        return;
      }
      await this.#read(part, reader);
    }
  }

  async #read(part: Part, reader: PayloadReader): Promise<void> {
    if (part.kind === 'payload') await reader.read(part.payload);
    else if (part.kind === 'bytes') await reader.searchBytes(part.bytes);
    else if (part.kind === 'text') await reader.searchText(part.text);
    else if (part.kind === 'other')
      this.#findings.gap(`the field ${quoted(part.field)} of a message is not what its descriptor says`);
  }
}
