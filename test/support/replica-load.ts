/** What clients do to replicas of the service, what they were told, and what went against it. */
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { digestOf } from '@large-payload/core';
import {
  type Answer,
  again,
  codeOf,
  newSeededBlob,
  put,
  RawConnection,
  read,
  request,
  type SeededBlob,
  stalledPut,
  type V2Blob,
} from './blobs.ts';

/** What `POST /v3/uploads` hands out. */
export interface DirectOffer {
  readonly outcome: 'direct';
  readonly key: string;
  readonly uploadId: string;
  readonly request: { readonly url: string; readonly headers: Record<string, string>; readonly expiresAt: string };
}

export type Offer =
  | DirectOffer
  | { readonly outcome: 'present'; readonly key: string }
  | { readonly outcome: 'proxied'; readonly key: string };

interface Left {
  readonly seeded: SeededBlob;
  readonly uploadId: string;
}

/** What the clients were told, and what went against it. */
export class ReplicaLedger {
  /** A replica said 201 or 200. */
  readonly acknowledged: SeededBlob[] = [];
  /** The bucket said 200 to their bytes: live in the end, whoever asks for it. */
  readonly stored: SeededBlob[] = [];
  /** Sent whole, and no answer: present or absent, nothing in between. */
  readonly unanswered: SeededBlob[] = [];
  readonly neverWhole: SeededBlob[] = [];
  /** In the bucket, and their clients gone before they completed them. */
  readonly left: Left[] = [];
  readonly violations: string[] = [];
  readonly counts: Record<string, number> = {};
  operations = 0;
  #waiting: (() => void)[] = [];

  any(): SeededBlob | undefined {
    return this.acknowledged[randomInt(Math.max(1, this.acknowledged.length))];
  }

  /** All that must be there, each once. */
  kept(): SeededBlob[] {
    return [...new Map([...this.acknowledged, ...this.stored].map((seeded) => [seeded.key, seeded])).values()];
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  note(what: string, blob: Pick<SeededBlob, 'key' | 'size'>, seen: unknown): void {
    this.violations.push(`${what}: ${blob.key}, ${blob.size} bytes, ${JSON.stringify(seen)}`);
  }

  ended(): void {
    this.operations += 1;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Until there are so many more. */
  async more(what: 'acknowledged' | 'operations', count: number): Promise<void> {
    const now = (): number => (what === 'operations' ? this.operations : this.acknowledged.length);
    const target = now() + count;
    while (now() < target) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

/** Before the same client comes again after it was refused or cut off. */
const backOffMs = 50;
const maxTries = 8;
/** For a clock that both sides share. */
const lateMs = 1000;

/** From 1 kB to 300 kB, small ones more often. */
function anySize(): number {
  return Math.floor(1000 * 300 ** (randomInt(1000) / 1000));
}

type Outcome = 'acknowledged' | 'unanswered' | 'refused';

/** Clients that ask any replica, also one that is dead. */
export class ReplicaClients {
  readonly #ledger: ReplicaLedger;
  readonly #anyPort: () => number;

  constructor(ledger: ReplicaLedger, anyPort: () => number) {
    this.#ledger = ledger;
    this.#anyPort = anyPort;
  }

  /** One after the other, until it is over. */
  async run(isOver: () => boolean): Promise<void> {
    const operations: (() => Promise<void>)[] = [
      ...[this.putNew, this.putNew, this.putNew, this.putAgain, this.breakOffPut],
      ...[this.sendNew, this.sendNew, this.sendNew, this.sendNew, this.sendAgain, this.rival],
      ...[this.leaveEarly, this.leaveLate, this.completeLeft, this.breakOffSend, this.sendWrong],
      ...[this.readOne, this.readOne, this.readOne, this.readElsewhere, this.readElsewhere, this.readElsewhere],
    ];
    while (!isOver()) {
      await operations[randomInt(operations.length)]?.call(this);
      this.#ledger.ended();
    }
  }

  /** An upload through a replica. */
  async putNew(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    this.#keep(seeded, await this.#put(seeded, blob, [201]));
  }

  async putAgain(): Promise<void> {
    const seeded = this.#ledger.any();
    if (seeded !== undefined) await this.#put(seeded, again(seeded), [200]);
  }

  async breakOffPut(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    this.#ledger.neverWhole.push(seeded);
    const connection = await stalledPut(this.#anyPort(), blob, randomInt(seeded.size)).catch(() => undefined);
    connection?.destroy();
  }

  /** An upload past the replicas. */
  async sendNew(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    this.#keep(seeded, await this.#send(seeded, blob));
  }

  async sendAgain(): Promise<void> {
    const seeded = this.#ledger.any();
    if (seeded === undefined) return;
    const offer = await this.begin(seeded);
    if (offer !== undefined && offer.outcome !== 'present') this.#ledger.note('a present blob offered', seeded, offer);
  }

  /** The same new blob by both ways at once. */
  async rival(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    const outcomes = await Promise.all([
      this.#put(seeded, blob, [200, 201]),
      this.#send(seeded, blob, true),
      this.#send(seeded, blob, true),
    ]);
    this.#keep(seeded, outcomes.find((outcome) => outcome === 'acknowledged') ?? 'unanswered');
  }

  async leaveEarly(): Promise<void> {
    const { seeded } = newSeededBlob(anySize());
    this.#ledger.neverWhole.push(seeded);
    await this.begin(seeded);
  }

  async leaveLate(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    const offer = await this.begin(seeded);
    if (offer?.outcome !== 'direct') return void this.#ledger.neverWhole.push(seeded);
    const isThere = await this.#toBucket(seeded, offer, blob.bytes);
    if (isThere) this.#ledger.left.push({ seeded, uploadId: offer.uploadId });
    else this.#ledger.unanswered.push(seeded);
  }

  /** Somebody comes back to an upload, perhaps when it was given up already. */
  async completeLeft(): Promise<void> {
    const { left, acknowledged } = this.#ledger;
    const [one] = left.splice(randomInt(Math.max(1, left.length)), 1);
    if (one === undefined) return;
    if ((await this.#complete(one.seeded, one.uploadId, true)) === 'acknowledged') acknowledged.push(one.seeded);
  }

  async breakOffSend(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    this.#ledger.neverWhole.push(seeded);
    const offer = await this.begin(seeded);
    if (offer?.outcome !== 'direct') return;
    const connection = await stalledSend(offer, blob, randomInt(seeded.size)).catch(() => undefined);
    connection?.destroy();
    if (randomInt(2) === 0) await this.#expectIncomplete(seeded, offer.uploadId);
  }

  async sendWrong(): Promise<void> {
    const { seeded, blob } = newSeededBlob(anySize());
    this.#ledger.neverWhole.push(seeded);
    const offer = await this.begin(seeded);
    if (offer?.outcome !== 'direct') return;
    const wrong = Buffer.from(blob.bytes);
    const at = randomInt(wrong.length);
    wrong[at] = (wrong[at] ?? 0) ^ 1;
    const answer = await sendTo(offer, wrong).catch(() => undefined);
    this.#ledger.count(`wrong bytes ${answer?.status ?? 'broken'}`);
    if (answer !== undefined && (answer.status < 400 || answer.status === 412))
      this.#ledger.note('wrong bytes', seeded, answer);
    await this.#expectIncomplete(seeded, offer.uploadId);
  }

  async readOne(): Promise<void> {
    const seeded = this.#ledger.any();
    if (seeded === undefined) return;
    const got = await read(this.#anyPort(), seeded);
    this.#ledger.count(`read ${got.status}`);
    if (got.isRight) return;
    if (got.status !== 'broken' && got.status !== 503) this.#ledger.note('a read', seeded, got);
    await delay(backOffMs);
  }

  async readElsewhere(): Promise<void> {
    const seeded = this.#ledger.any();
    if (seeded === undefined) return;
    const got = await readByRedirect(this.#anyPort(), seeded);
    this.#ledger.count(`read by redirect ${got.status}`);
    if (got.isRight) return;
    if (got.status !== 'broken' && got.status !== 503) this.#ledger.note('a read by redirect', seeded, got);
    await delay(backOffMs);
  }

  /** `undefined` when nobody answered it in time. */
  async begin({ key, size }: SeededBlob): Promise<Offer | undefined> {
    for (let tries = 0; tries < maxTries; tries++) {
      const answer = await postJson(this.#anyPort(), '/v3/uploads', { key, size });
      if (answer?.status === 200 || answer?.status === 201) {
        const offer = JSON.parse(answer.text) as Offer;
        this.#ledger.count(`begin ${offer.outcome}`);
        return offer;
      }
      this.#ledger.count(`begin ${answer?.status ?? 'broken'}`);
      if (answer !== undefined && answer.status !== 503)
        this.#ledger.note('the beginning of an upload', { key, size }, answer.text);
      await delay(backOffMs);
    }
    return undefined;
  }

  async #put(seeded: SeededBlob, blob: V2Blob, expected: readonly number[]): Promise<Outcome> {
    const answer = await put(this.#anyPort(), blob).catch(() => undefined);
    this.#ledger.count(`put ${answer?.status ?? 'broken'}`);
    if (answer !== undefined && expected.includes(answer.status)) return 'acknowledged';
    if (answer !== undefined && answer.status !== 503) this.#ledger.note('a put', seeded, answer);
    await delay(backOffMs);
    return 'unanswered';
  }

  async #send(seeded: SeededBlob, blob: V2Blob, isRival = false): Promise<Outcome> {
    const offer = await this.begin(seeded);
    if (offer === undefined) return 'unanswered';
    if (offer.outcome === 'proxied') return this.#put(seeded, blob, isRival ? [200, 201] : [201]);
    if (offer.outcome === 'present') {
      if (!isRival) this.#ledger.note('a new blob is present', seeded, offer);
      return 'acknowledged';
    }
    const isThere = await this.#toBucket(seeded, offer, blob.bytes, isRival);
    return this.#complete(seeded, offer.uploadId, isThere);
  }

  /** PUT to the bucket; a client comes again with the same URL when it was cut off. Whether the bytes are there. */
  async #toBucket(seeded: SeededBlob, offer: DirectOffer, body: Buffer, isRival = false): Promise<boolean> {
    for (let tries = 0; tries < maxTries; tries++) {
      const answer = await sendTo(offer, body).catch(() => undefined);
      this.#ledger.count(`bucket ${answer?.status ?? 'broken'}`);
      const isFirst = tries === 0 && !isRival;
      if (answer?.status === 200 || (answer?.status === 412 && !isFirst)) {
        this.#ledger.stored.push(seeded);
        return true;
      }
      const isLate = Date.now() > Date.parse(offer.request.expiresAt) - lateMs;
      if (isLate && answer?.status === 403) return false;
      const mayComeAgain = answer === undefined || answer.status >= 500 || (answer.status === 409 && !isFirst);
      if (!mayComeAgain) {
        this.#ledger.note('a put to the bucket', seeded, answer.text);
        return false;
      }
      await delay(backOffMs);
    }
    return false;
  }

  /** The client asks any replica until one answers. */
  async #complete(seeded: SeededBlob, uploadId: string, isThere: boolean): Promise<Outcome> {
    for (let tries = 0; tries < maxTries; tries++) {
      const answer = await postJson(this.#anyPort(), `/v3/uploads/${uploadId}/complete`);
      this.#ledger.count(`complete ${answer?.status ?? 'broken'}`);
      if (answer?.status === 200 || answer?.status === 201) {
        if (JSON.parse(answer.text).key !== seeded.key) this.#ledger.note('another key', seeded, answer.text);
        return 'acknowledged';
      }
      if (answer?.status === 409 && !isThere) return 'refused';
      if (answer !== undefined && (answer.status !== 503 || /damaged|deleted/.test(answer.text)))
        this.#ledger.note('the completion of an upload', seeded, answer.text);
      await delay(backOffMs);
    }
    return 'unanswered';
  }

  async #expectIncomplete(seeded: SeededBlob, uploadId: string): Promise<void> {
    const answer = await postJson(this.#anyPort(), `/v3/uploads/${uploadId}/complete`);
    this.#ledger.count(`complete nothing ${answer?.status ?? 'broken'}`);
    const isTold = answer === undefined || answer.status === 503 || codeOf(answer) === 'UPLOAD_INCOMPLETE';
    if (!isTold) this.#ledger.note('completed without its bytes', seeded, answer.text);
  }

  #keep(seeded: SeededBlob, outcome: Outcome): void {
    this.#ledger[outcome === 'acknowledged' ? 'acknowledged' : 'unanswered'].push(seeded);
  }
}

/** `undefined` when the connection breaks. */
async function postJson(port: number, path: string, value?: object): Promise<Answer | undefined> {
  const body = value === undefined ? undefined : Buffer.from(JSON.stringify(value));
  const headers = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': body.length };
  const options = { method: 'POST', headers: { ...headers, accept: 'application/json' }, ...(body && { body }) };
  return request(port, path, options).catch(() => undefined);
}

function placeOf(url: string): { port: number; path: string } {
  const { port, pathname, search } = new URL(url);
  return { port: Number(port), path: `${pathname}${search}` };
}

function sendTo({ request: { url, headers } }: DirectOffer, body: Buffer): Promise<Answer> {
  const { port, path } = placeOf(url);
  return request(port, path, { method: 'PUT', headers: { ...headers, 'content-length': body.length }, body });
}

/** A PUT to the bucket that has sent so many bytes of its body, and waits. */
export async function stalledSend(
  { request: { url, headers } }: DirectOffer,
  blob: V2Blob,
  sentBytes: number,
): Promise<RawConnection> {
  const { port, path } = placeOf(url);
  const all = { host: `127.0.0.1:${port}`, ...headers, 'content-length': String(blob.bytes.length) };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  const connection = await RawConnection.open(port);
  await connection.write(`PUT ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
  await connection.write(blob.bytes.subarray(0, sentBytes));
  return connection;
}

/** GET by way of the bucket where the replica says so. */
export async function readByRedirect(
  port: number,
  { key, digest, size }: SeededBlob,
): Promise<{ status: number | 'broken'; isRight: boolean }> {
  try {
    const path = `/v3/blobs?${new URLSearchParams({ key, redirect: '1' })}`;
    const first = await request(port, path, { headers: { accept: 'application/json' } });
    const elsewhere = placeOf(first.headers.location ?? 'http://127.0.0.1');
    const { status, body } = first.status === 307 ? await request(elsewhere.port, elsewhere.path) : first;
    return { status, isRight: status === 200 && body.length === size && digestOf(body) === digest };
  } catch {
    return { status: 'broken', isRight: false };
  }
}
