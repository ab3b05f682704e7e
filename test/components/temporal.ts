import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Connection } from '@temporalio/client';
import { installedPath } from './components.mjs';
import {
  freePort,
  freePorts,
  type LoggedProcess,
  retryTakenPorts,
  spawnLogged,
  tempDir,
  waitUntilReady,
} from './process.ts';
import { requireOrSkip } from './require.ts';

const grpcNotFound = 5;
const retention = '1 day';

export interface TemporalServer {
  /** host:port of the frontend, as Connection.connect and NativeConnection.connect take it. */
  readonly address: string;
  /** A namespace that exists already. */
  readonly namespace: string;
  readonly pid: number;
  /** Makes a namespace when it is absent; resolves when it can be used. */
  registerNamespace(name: string): Promise<void>;
  /** The histories are in memory: they go with the server. */
  stop(): Promise<void>;
}

/** A real Temporal server on loopback ports, or undefined where there is none (see requireOrSkip). */
export async function startTemporal(): Promise<TemporalServer | undefined> {
  const binary = requireOrSkip('temporal');
  if (binary === undefined) return undefined;
  const { Connection } = await import('@temporalio/client');

  return retryTakenPorts(async () => {
    const start = binary === installedPath('temporal') ? startServer : startCommandLine;
    const { port, server } = await start(binary);
    const address = `127.0.0.1:${port}`;
    let connection: Connection | undefined;
    await waitUntilReady(server, 'Temporal', async () => {
      await connectOnce(port); // asked too early, gRPC would wait a second before it asks again
      connection = await Connection.connect({ address, connectTimeout: 1000 });
      return true;
    });
    if (connection === undefined) throw new Error('Temporal is ready but not connected');
    const opened = connection;
    const registerNamespace = (name: string): Promise<void> => makeNamespace(opened, server, name);
    await registerNamespace('default');
    return {
      address,
      namespace: 'default',
      pid: server.pid,
      registerNamespace,
      stop: async () => {
        await opened.close();
        await server.kill(); // a graceful stop takes a second and there is nothing to keep
      },
    };
  });
}

interface Started {
  port: number;
  server: LoggedProcess;
}

async function startServer(binary: string): Promise<Started> {
  const ports = await freePorts(8);
  const [port] = ports;
  if (port === undefined) throw new Error('no free port');
  const dir = tempDir('temporal');
  const [configFile, settingsFile] = [join(dir, 'config.yaml'), join(dir, 'dynamic-config.yaml')];
  // JSON is YAML.
  writeFileSync(configFile, JSON.stringify(serverConfig(ports, settingsFile)));
  writeFileSync(settingsFile, JSON.stringify(dynamicConfig));
  const server = await spawnLogged(binary, ['--config-file', configFile, '--allow-no-auth', 'start']);
  return { port, server };
}

/** The dev server of Temporal's command line, when that is what the machine has. */
async function startCommandLine(binary: string): Promise<Started> {
  const port = await freePort();
  const args = `server start-dev --headless --ip 127.0.0.1 --port ${port} --log-level warn`.split(' ');
  return { port, server: await spawnLogged(binary, args) };
}

/**
 * New namespaces are found by polling, every two seconds unless told. A run that is deleted waits for the server to have
 * written down that it is done with the run's end: every 30 seconds unless told.
 */
const dynamicConfig = {
  'system.namespaceCacheRefreshInterval': [{ value: '100ms' }],
  'history.transferProcessorUpdateAckInterval': [{ value: '1s' }],
  'history.visibilityProcessorUpdateAckInterval': [{ value: '1s' }],
};

/**
 * The server's own config/development-sqlite.yaml, less what would listen on a fixed port (HTTP, metrics, pprof) or
 * write to a fixed path (archival). The schema of a database in memory sets itself up.
 */
function serverConfig(ports: number[], settingsFile: string): object {
  const service = (index: number): object => ({
    rpc: { grpcPort: ports[2 * index], membershipPort: ports[2 * index + 1], bindOnLocalHost: true },
  });
  const sqliteInMemory = {
    sql: {
      pluginName: 'sqlite',
      databaseName: 'default',
      connectAddr: 'localhost',
      connectProtocol: 'tcp',
      connectAttributes: { mode: 'memory', cache: 'private' },
      maxConns: 1,
      maxIdleConns: 1,
      maxConnLifetime: '1h',
    },
  };
  const rpcAddress = `127.0.0.1:${ports[0]}`;
  return {
    log: { stdout: true, level: 'warn' },
    persistence: {
      defaultStore: 'default',
      visibilityStore: 'visibility',
      numHistoryShards: 1,
      datastores: { default: sqliteInMemory, visibility: sqliteInMemory },
    },
    global: { membership: { maxJoinDuration: '30s', broadcastAddress: '127.0.0.1' } },
    services: { frontend: service(0), matching: service(1), history: service(2), worker: service(3) },
    clusterMetadata: {
      enableGlobalNamespace: false,
      failoverVersionIncrement: 10,
      masterClusterName: 'active',
      currentClusterName: 'active',
      clusterInformation: { active: { enabled: true, initialFailoverVersion: 1, rpcName: 'frontend', rpcAddress } },
    },
    dcRedirectionPolicy: { policy: 'noop' },
    dynamicConfigClient: { filepath: settingsFile, pollInterval: '1h' },
  };
}

async function makeNamespace(connection: Connection, server: LoggedProcess, namespace: string): Promise<void> {
  const { msToTs } = await import('@temporalio/common/lib/time.js');
  const { workflowService } = connection;
  // Also tried again: right after its start the server may not yet have found its own parts.
  await waitUntilReady(server, `Temporal namespace ${namespace}`, async () => {
    if (await namespaceExists(connection, namespace)) return true;
    const workflowExecutionRetentionPeriod = msToTs(retention);
    await workflowService.registerNamespace({ namespace, workflowExecutionRetentionPeriod });
    return true;
  });
  // The services learn of a namespace by polling, each for itself: frontend (list) and matching (task queue).
  await waitUntilReady(server, `Temporal namespace ${namespace}`, async () => {
    await workflowService.listWorkflowExecutions({ namespace, pageSize: 1 });
    await workflowService.describeTaskQueue({ namespace, taskQueue: { name: 'readiness' }, taskQueueType: 1 });
    return true;
  });
}

async function namespaceExists(connection: Connection, namespace: string): Promise<boolean> {
  try {
    await connection.workflowService.describeNamespace({ namespace });
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === grpcNotFound) return false;
    throw error;
  }
}

async function connectOnce(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.destroy();
}
