/**
 * Connections for DBOS, which waits and tries again when Postgres is away, but knows only some of the ways in which that
 * shows: without a socket file (ENOENT, the embedded database is being started again) or a name in the DNS it would let
 * the workflow fail. So whatever keeps a connection from being made, or breaks one (EPIPE), is told in words that it
 * waits for.
 */
import type { Socket } from 'node:net';
import pg from 'pg';
import { outliveConnections } from '../catalog/database.js';

type OnConnect = (
  error: Error | undefined,
  client: pg.PoolClient | undefined,
  release: (error?: unknown) => void,
) => void;

export class PatientPool extends pg.Pool {
  constructor(settings: pg.PoolConfig) {
    super(settings);
    outliveConnections(this);
    this.on('connect', (client) => {
      const { connection } = client as unknown as { connection: { stream: Socket } };
      // first, so that the statement under way fails with it as it is then
      connection.stream.prependListener('error', (error: Error) => {
        error.cause ??= new Error('server closed the connection');
      });
    });
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: OnConnect): void;
  override connect(callback?: OnConnect): Promise<pg.PoolClient> | undefined {
    if (callback === undefined) {
      return super.connect().catch((error: unknown) => {
        throw this.#asPassing(error);
      });
    }
    super.connect((error, client, release) =>
      callback(error === undefined || error === null ? undefined : this.#asPassing(error), client, release),
    );
    return undefined;
  }

  #asPassing(error: unknown): Error {
    const known = error instanceof Error ? error : new Error(String(error));
    // a pool that was closed does not come back
    return this.ending ? known : new Error(`could not connect to server: ${known.message}`, { cause: known });
  }
}
