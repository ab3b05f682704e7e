/** Before a bucket of S3: keeps what was written and deleted there, in order, and holds a request back, or its answer. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream';

export interface BucketPlace {
  readonly method: 'PUT' | 'DELETE';
  readonly key: RegExp;
  /** `sent`: it does not reach the bucket. `answered`: it has taken effect, and the answer does not come back. */
  readonly when: 'sent' | 'answered';
}

/** The first request that fits. */
export interface HeldRequest {
  /** Resolves with the object's key, once it is held. */
  readonly reached: Promise<string>;
  /** Lets it go on; a DELETE also when its client is dead by now. Resolves when the bucket has answered. */
  arrive(): Promise<void>;
  /** It never reaches the bucket, or its answer never the client. */
  lose(): void;
}

/** What reached the bucket, and what it said. */
export interface Written {
  readonly method: 'PUT' | 'DELETE';
  readonly key: string;
  readonly status: number;
}

export interface BucketProxy {
  readonly endpoint: string;
  readonly written: readonly Written[];
  hold(place: BucketPlace): HeldRequest;
  close(): Promise<void>;
}

class Hold implements HeldRequest {
  readonly reached: Promise<string>;
  readonly released: Promise<void>;
  reach: (key: string) => void = () => undefined;
  end: () => void = () => undefined;
  readonly #ended: Promise<void>;
  #release: () => void = () => undefined;
  #lose: (reason: Error) => void = () => undefined;

  constructor(readonly place: BucketPlace) {
    this.reached = new Promise((resolve) => {
      this.reach = resolve;
    });
    this.released = new Promise((resolve, reject) => {
      this.#release = resolve;
      this.#lose = reject;
    });
    this.released.catch(() => undefined);
    this.#ended = new Promise((resolve) => {
      this.end = resolve;
    });
  }

  arrive(): Promise<void> {
    this.#release();
    return this.#ended;
  }

  lose(): void {
    this.#lose(new Error('lost'));
  }
}

/** Hands on everything as it came, the `Host` too: signatures stay right. */
export async function startBucketProxy({
  endpoint,
  bucket,
}: {
  endpoint: string;
  bucket: string;
}): Promise<BucketProxy> {
  const { hostname, port } = new URL(endpoint);
  const agent = new http.Agent({ keepAlive: true });
  const written: Written[] = [];
  const holds = new Set<Hold>();
  const server = http.createServer((request, response) => {
    void forward(request, response).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  function holdFor(method: string, key: string): Hold | undefined {
    const found = [...holds].find(({ place }) => place.method === method && place.key.test(key));
    if (found !== undefined) holds.delete(found);
    return found;
  }

  async function forward(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const { method = '', url: path = '', headers } = request;
    const key = decodeURIComponent(path.replace(/\?.*$/, '')).slice(`/${bucket}/`.length);
    const hold = holdFor(method, key);
    const waitAt = async (when: BucketPlace['when']): Promise<void> => {
      if (hold?.place.when !== when) return;
      hold.reach(key);
      await hold.released;
    };
    try {
      await waitAt('sent');
      const onward = http.request({ hostname, port, agent, method, path, headers });
      onward.on('error', () => response.destroy());
      if (method === 'DELETE') onward.end();
      else pipeline(request, onward, () => undefined);
      const [answer] = (await once(onward, 'response')) as [http.IncomingMessage];
      const status = answer.statusCode ?? 502;
      if (method === 'PUT' || method === 'DELETE') written.push({ method, key, status });
      await waitAt('answered');
      response.sendDate = false;
      response.writeHead(status, answer.headers);
      pipeline(answer, response, () => undefined);
    } finally {
      hold?.end();
    }
  }

  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    written,
    hold(place) {
      const hold = new Hold(place);
      holds.add(hold);
      return hold;
    },
    async close() {
      server.closeAllConnections();
      agent.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
