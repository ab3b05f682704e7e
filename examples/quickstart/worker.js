import { fileURLToPath } from 'node:url';
import { NativeConnection, Worker } from '@temporalio/worker';
import * as activities from './activities.js';
import { largePayloads, namespace } from './large-payloads.js';

const { TEMPORAL_ADDRESS: address = '127.0.0.1:7233', MAX_CACHED_WORKFLOWS } = process.env;

const connection = await NativeConnection.connect({ address });
const worker = await Worker.create({
  connection,
  namespace,
  taskQueue: 'quickstart',
  workflowsPath: fileURLToPath(new URL('./workflows.js', import.meta.url)),
  activities,
  ...largePayloads(),
  // 0: every workflow task replays the whole history, to show what that costs
  ...(MAX_CACHED_WORKFLOWS ? { maxCachedWorkflows: Number(MAX_CACHED_WORKFLOWS) } : {}),
});
console.log('worker ready');
await worker.run();
await connection.close();
