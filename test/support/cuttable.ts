/** A network that can be cut: TCP between whoever connects and one of several places, as a load balancer has it. */
import { once } from 'node:events';
import net from 'node:net';

/** `refused`: connections end, and new ones at once. `silent`: they stay, and no byte moves: a cable that is out. */
export type Cut = 'refused' | 'silent';

export interface Cuttable {
  readonly port: number;
  readonly isCut: boolean;
  cut(how: Cut): void;
  /** What was cut off is over; new connections go through. */
  heal(): void;
  close(): Promise<void>;
}

/**
 * `target`: where the next connection goes; `undefined`: nowhere, it is refused. `keepAliveMs`: how long the far side keeps
 * a connection on which nothing moves; without it for ever.
 */
export async function startCuttable(
  target: () => net.NetConnectOpts | undefined,
  keepAliveMs?: number,
): Promise<Cuttable> {
  const open = new Set<net.Socket>();
  const ends = new Set<net.Socket>();
  let keepAlive: NodeJS.Timeout | undefined;
  let how: Cut | undefined;
  const add = (socket: net.Socket): void => {
    open.add(socket);
    socket.setNoDelay().on('error', () => undefined);
    socket.once('close', () => open.delete(socket));
  };
  const server = net.createServer((near) => {
    add(near);
    const to = how === undefined ? target() : undefined;
    if (how === 'silent') return void near.pause();
    if (to === undefined) return void near.destroy();
    const far = net.connect(to);
    add(far);
    near.once('close', () => far.destroy());
    far.once('close', () => {
      if (how !== 'silent') near.destroy();
    });
    ends.add(far);
    far.once('close', () => ends.delete(far));
    near.pipe(far);
    far.pipe(near);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const destroyAll = (): void => {
    for (const socket of open) socket.destroy();
  };
  return {
    port: (server.address() as net.AddressInfo).port,
    get isCut() {
      return how !== undefined;
    },
    cut(next) {
      how = next;
      if (next === 'refused') return destroyAll();
      for (const socket of open) socket.unpipe().pause();
      if (keepAliveMs === undefined) return;
      keepAlive = setTimeout(() => {
        for (const far of ends) far.destroy();
      }, keepAliveMs);
    },
    heal() {
      clearTimeout(keepAlive);
      if (how === 'silent') destroyAll();
      how = undefined;
    },
    async close() {
      clearTimeout(keepAlive);
      destroyAll();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
