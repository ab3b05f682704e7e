/**
 * Server-sent events, as upstream sends what was deleted and taken down:
 *
 *   id: 4711
 *   event: takedown
 *   data: {"key":"/blobs/…","physicalKey":"/blobs/…"}
 *   (an empty line)
 *   : still here
 */

export interface ServerSentEvent {
  readonly id: string | undefined;
  /** `message` where none is named. */
  readonly event: string;
  readonly data: string;
}

/** Longer ones are an error: no event of ours is. */
const maxLineLength = 64 * 1024;

/** Takes the text of a stream apart, as it comes. */
export class EventStreamParser {
  readonly #onEvent: (event: ServerSentEvent) => void;
  readonly #decoder = new TextDecoder();
  #rest = '';
  #id: string | undefined;
  #event = '';
  #data: string[] = [];

  constructor(onEvent: (event: ServerSentEvent) => void) {
    this.#onEvent = onEvent;
  }

  /** Throws when what comes is no such stream. */
  push(chunk: Uint8Array): void {
    const lines = `${this.#rest}${this.#decoder.decode(chunk, { stream: true })}`.split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#line(line.endsWith('\r') ? line.slice(0, -1) : line);
    if (this.#rest.length > maxLineLength) throw new Error('a line of the event stream is too long');
  }

  #line(line: string): void {
    if (line === '') {
      this.#dispatch();
      return;
    }
    const [, name, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === 'id') this.#id = value;
    if (name === 'event') this.#event = value;
    if (name === 'data') this.#data.push(value);
    if (this.#data.length > 1000) throw new Error('an event of the stream is too long');
  }

  #dispatch(): void {
    if (this.#data.length > 0 || this.#event !== '') {
      this.#onEvent({ id: this.#id, event: this.#event || 'message', data: this.#data.join('\n') });
    }
    this.#event = '';
    this.#data = [];
  }
}
