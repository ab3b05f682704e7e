/**
 * Between one client and PostgreSQL on a Unix socket: holds a statement back, or its answer, until told. With the client
 * dead, what was held is lost with its connection, or arrives late.
 */
import { once } from 'node:events';
import net from 'node:net';

export interface StatementPlace {
  readonly statement: RegExp;
  /** What the same connection asked just before: the last three statements, the newest last, with ` ; ` between them. */
  readonly behind?: RegExp;
  /** `sent`: it does not reach PostgreSQL. `answered`: it does, and the answer does not come back. */
  readonly when: 'sent' | 'answered';
  /** Not the statement is meant, but the COMMIT of its transaction. */
  readonly atCommit?: boolean;
}

/** One statement that is held: the first that fits. */
export interface HeldStatement {
  /** Resolves once it is held. */
  readonly reached: Promise<void>;
  /** Lets it go on, also when its client is dead by now. Resolves when PostgreSQL has answered, or its client got the answer. */
  arrive(): Promise<void>;
  /** The connection is cut with what is held. */
  lose(): void;
  /** Nobody wants it any more: what is held goes on, and what comes later is not held. */
  giveUp(): void;
}

export interface StatementProxy {
  /** For the client. */
  readonly url: string;
  /** `outlives`: a dead client's statement stays with the proxy, until it arrives or is lost. */
  hold(place: StatementPlace, options?: { readonly outlives?: boolean }): HeldStatement;
  close(): Promise<void>;
}

/** `target` as the embedded PostgreSQL gives it: `postgresql://USER@localhost:PORT/DATABASE?host=DIRECTORY`. */
export async function startStatementProxy(target: string): Promise<StatementProxy> {
  const { username, port, pathname, searchParams } = new URL(target);
  const socketPath = `${searchParams.get('host')}/.s.PGSQL.${port}`;
  const lines = new Set<Line>();
  const holds = new Set<Hold>();
  const server = net.createServer((near) => {
    const line = new Line(near, net.connect(socketPath), holds);
    lines.add(line);
    line.far.once('close', () => lines.delete(line));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port: ownPort } = server.address() as net.AddressInfo;
  return {
    url: `postgresql://${username}@127.0.0.1:${ownPort}${pathname}?sslmode=disable`,
    hold(place, { outlives = false } = {}) {
      const hold = new Hold(place, outlives);
      holds.add(hold);
      return hold;
    },
    async close() {
      for (const line of lines) line.cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

class Hold implements HeldStatement {
  readonly reached: Promise<void>;
  line: Line | undefined;
  isGivenUp = false;
  #reach: () => void = () => undefined;

  constructor(
    readonly place: StatementPlace,
    readonly outlives: boolean,
  ) {
    this.reached = new Promise((resolve) => {
      this.#reach = resolve;
    });
  }

  isAt(line: Line): void {
    this.line = line;
    this.#reach();
  }

  async arrive(): Promise<void> {
    await this.line?.letGo();
  }

  lose(): void {
    this.line?.cut();
  }

  giveUp(): void {
    this.isGivenUp = true;
    void this.arrive();
  }
}

/** Of the client: a message without a type at first, then `type, length, content`. */
const typeBytes = 1;
const lengthBytes = 4;
/** `Z`, five bytes long: PostgreSQL is ready for the next statement. A state follows. */
const ready = Buffer.from('Z\0\0\0\x05', 'latin1');

class Line {
  readonly near: net.Socket;
  readonly far: net.Socket;
  readonly #holds: Set<Hold>;
  readonly #names = new Map<string, string>();
  #isStarted = false;
  #unread = Buffer.alloc(0);
  #asked: string[] = [];
  /** Waits for the COMMIT of a transaction that had its statement. */
  #armed: Hold | undefined;
  #held: Hold | undefined;
  /** What PostgreSQL said and the client is not to hear yet. */
  #answer: Buffer | undefined;
  #waitsForAnswer: (() => void) | undefined;

  constructor(near: net.Socket, far: net.Socket, holds: Set<Hold>) {
    this.near = near;
    this.far = far;
    this.#holds = holds;
    near.on('data', (bytes) => this.#take(bytes));
    far.on('data', (bytes) => this.#hear(bytes));
    for (const socket of [near, far]) socket.setNoDelay().on('error', () => undefined);
    near.once('close', () => this.#clientIsGone());
    far.once('close', () => {
      near.destroy();
      this.#waitsForAnswer?.();
    });
  }

  cut(): void {
    this.near.destroy();
    this.far.destroy();
  }

  async letGo(): Promise<void> {
    const held = this.#held;
    if (held === undefined || this.far.destroyed) return;
    this.#held = undefined;
    const answer = this.#answer;
    this.#answer = undefined;
    if (answer !== undefined) {
      if (!this.near.destroyed) this.near.write(answer);
    } else {
      const answered = new Promise<void>((resolve) => {
        this.#waitsForAnswer = resolve;
      });
      this.#forward();
      await answered;
    }
    if (this.near.destroyed) this.far.end();
  }

  #clientIsGone(): void {
    if (this.#armed !== undefined) this.#holds.add(this.#armed);
    if (this.#held?.outlives !== true) this.far.destroy();
  }

  #take(bytes: Buffer): void {
    this.#unread = Buffer.concat([this.#unread, bytes]);
    this.#forward();
  }

  /** Message by message, until one is to be held before it is sent. */
  #forward(): void {
    while (this.#held === undefined || this.#held.place.when === 'answered') {
      const typeLength = this.#isStarted ? typeBytes : 0;
      if (this.#unread.length < typeLength + lengthBytes) return;
      const end = typeLength + this.#unread.readUInt32BE(typeLength);
      if (this.#unread.length < end) return;
      const message = this.#unread.subarray(0, end);
      const text = this.#isStarted ? this.#textOf(message) : undefined;
      if (text !== undefined && this.#holdsAt(text)) continue;
      this.#isStarted = true;
      this.#unread = this.#unread.subarray(end);
      this.far.write(message);
    }
  }

  /** What a message asks for: a simple query, a statement to be parsed, or one with a name that was. */
  #textOf(message: Buffer): string | undefined {
    const type = String.fromCharCode(message[0] ?? 0);
    const [first = '', second = ''] = message
      .subarray(typeBytes + lengthBytes)
      .toString('utf8')
      .split('\0', 2);
    if (type === 'Q') return first;
    if (type === 'P') {
      this.#names.set(first, second);
      return second;
    }
    // a bind without a name belongs to the statement that was parsed just before
    return type === 'B' && second !== '' ? this.#names.get(second) : undefined;
  }

  /** Whether the message is held now, and so not yet to be sent. */
  #holdsAt(text: string): boolean {
    const armed = this.#armed;
    const before = this.#asked.join(' ; ');
    if (text !== this.#asked.at(-1)) this.#asked = [...this.#asked.slice(-2), text];
    if (armed !== undefined && /^(COMMIT|ROLLBACK)$/.test(text)) {
      this.#armed = undefined;
      if (text === 'COMMIT' && !armed.isGivenUp) return this.#isHeld(armed);
      this.#holds.add(armed);
    }
    for (const hold of this.#holds) {
      if (hold.isGivenUp) {
        this.#holds.delete(hold);
        continue;
      }
      const { statement, behind, atCommit = false } = hold.place;
      if (!statement.test(text) || behind?.test(before) === false) continue;
      this.#holds.delete(hold);
      if (!atCommit) return this.#isHeld(hold);
      this.#armed = hold;
    }
    return false;
  }

  #isHeld(hold: Hold): boolean {
    this.#held = hold;
    if (hold.place.when === 'answered') {
      this.#answer = Buffer.alloc(0);
      return false;
    }
    hold.isAt(this);
    return true;
  }

  #hear(bytes: Buffer): void {
    if (this.#answer !== undefined) {
      this.#answer = Buffer.concat([this.#answer, bytes]);
      if (!isEnd(this.#answer)) return;
      if (this.#held?.isGivenUp) void this.letGo();
      else this.#held?.isAt(this);
      return;
    }
    if (!this.near.destroyed) this.near.write(bytes);
    if (isEnd(bytes)) this.#waitsForAnswer?.();
  }
}

function isEnd(answer: Buffer): boolean {
  return answer.length > ready.length && answer.subarray(-ready.length - 1, -1).equals(ready);
}
