/** Who reads from every node of a site all the time, and who uploads the same blobs meanwhile. */
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { SeededRandom } from '../../packages/server/src/lifecycle/simulation/random-fixture.ts';
import type { V2Blob } from './blobs.ts';
import type { SiteNode } from './takedown-site.ts';

/** One read that gave bytes of a blob. */
export interface Served {
  readonly node: SiteNode;
  readonly key: string;
  /** When it was asked for, by this process' steady clock, in ms. */
  readonly askedAtMs: number;
  readonly bytes: number;
}

/** A node that is cut off answers nothing. */
const patienceMs = 2500;
/** Between two reads of one reader. */
const pauseMs = 10;

export class SiteLoad {
  readonly served: Served[] = [];
  /** Blobs that are read and uploaded. */
  blobs: readonly V2Blob[] = [];
  readonly statuses = new Map<string, number>();
  isUploading = false;
  readonly #nodes: readonly SiteNode[];
  readonly #random: SeededRandom;
  readonly #stop = new AbortController();
  readonly #loops: Promise<void>[] = [];
  readonly #uploads = new Set<Promise<unknown>>();

  constructor(nodes: readonly SiteNode[], random: SeededRandom) {
    this.#nodes = nodes;
    this.#random = random;
  }

  start(uploaders: number): void {
    for (const node of this.#nodes) this.#loops.push(this.#loop(() => this.#readOne(node)));
    for (let count = 0; count < uploaders; count += 1) this.#loops.push(this.#loop(() => this.#uploadOne()));
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#loops);
  }

  /** Until no upload is under way that was begun before. */
  async settled(): Promise<void> {
    while (this.#uploads.size > 0) await Promise.allSettled([...this.#uploads]);
  }

  async #loop(once: () => Promise<void>): Promise<void> {
    while (!this.#stop.signal.aborted) {
      await once();
      await delay(pauseMs);
    }
  }

  async #readOne(node: SiteNode): Promise<void> {
    const blob = this.#random.pickOrNone(this.blobs);
    if (blob !== undefined && node.isUp) await this.read(node, blob);
  }

  /** Its status, 0 for none, and how many bytes came of the blob itself. */
  async read(node: SiteNode, blob: V2Blob): Promise<{ readonly status: number; readonly bytes: number }> {
    const askedAtMs = performance.now();
    const { status, bytes } = await send(node.port, { path: blob.getPath, headers: blob.getHeaders });
    this.#count(`${node.kind} GET ${status}`);
    const isOfBlob = status === 200;
    if (isOfBlob && bytes > 0) this.served.push({ node, key: blob.key, askedAtMs, bytes });
    return { status, bytes: isOfBlob ? bytes : 0 };
  }

  async #uploadOne(): Promise<void> {
    const blob = this.#random.pickOrNone(this.blobs);
    const node = this.#random.pickOrNone(this.#nodes.filter(({ isUp }) => isUp));
    if (!this.isUploading || blob === undefined || node === undefined) return;
    await this.upload(node, blob, this.#random.chance(0.2) ? this.#random.below(1500) : 0);
  }

  /** `stallMs`: in the midst of the body. */
  async upload(node: SiteNode, blob: V2Blob, stallMs = 0): Promise<number> {
    const headers = { ...blob.putHeaders, 'content-length': blob.bytes.length, accept: 'application/json' };
    const upload = send(node.port, { method: 'PUT', path: blob.putPath, headers }, blob.bytes, stallMs);
    this.#uploads.add(upload);
    const { status } = await upload.finally(() => this.#uploads.delete(upload));
    this.#count(`${node.kind} PUT ${status}`);
    return status;
  }

  #count(what: string): void {
    this.statuses.set(what, (this.statuses.get(what) ?? 0) + 1);
  }
}

/** A request to whatever end; what was cut off in the midst of a body has a status all the same. */
function send(
  port: number,
  options: http.RequestOptions,
  body?: Buffer,
  stallMs = 0,
): Promise<{ status: number; bytes: number }> {
  return new Promise((resolve) => {
    let [status, bytes] = [0, 0];
    const done = (): void => resolve({ status, bytes });
    const request = http.request({ host: '127.0.0.1', port, ...options }, (response) => {
      status = response.statusCode ?? 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
      });
      response.on('close', done).on('error', () => undefined);
    });
    request.setTimeout(patienceMs, () => request.destroy());
    request.on('error', done).on('close', done);
    if (body === undefined || stallMs === 0) return void request.end(body);
    request.write(body.subarray(0, body.length / 2));
    setTimeout(() => request.end(body.subarray(body.length / 2)), stallMs);
  });
}

/** A read of a blob that is larger than what networks and processes buffer, by a client that stops reading. */
export class SlowRead {
  #request: http.ClientRequest | undefined;
  #response: http.IncomingMessage | undefined;

  constructor(
    readonly node: SiteNode,
    readonly blob: V2Blob,
  ) {}

  /** Resolves with the status when the answer has begun; 0: there is none. */
  async begin(): Promise<number> {
    const { getPath: path, getHeaders: headers } = this.blob;
    return new Promise((resolve) => {
      this.#request = http.request({ host: '127.0.0.1', port: this.node.port, path, headers }, (response) => {
        this.#response = response.pause().on('error', () => undefined);
        resolve(response.statusCode ?? 0);
      });
      this.#request.on('error', () => resolve(0)).end();
      this.#request.setTimeout(patienceMs * 4, () => this.#request?.destroy());
    });
  }

  /** Reads no more. */
  destroy(): undefined {
    this.#request?.destroy();
  }

  /** Reads on; resolves with all the bytes that came. */
  async finish(): Promise<number> {
    const response = this.#response;
    if (response?.statusCode !== 200) return 0;
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
    if (!response.closed) await new Promise((resolve) => response.once('close', resolve).resume());
    return bytes;
  }
}
