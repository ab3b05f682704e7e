import { fileURLToPath } from 'node:url';
import { NativeConnection, Worker } from '@temporalio/worker';
import * as activities from './activities.js';
import { encryptedPayloads, namespace } from './encryption.js';

const { TEMPORAL_ADDRESS: address = '127.0.0.1:7233' } = process.env;

const connection = await NativeConnection.connect({ address });
const worker = await Worker.create({
  connection,
  namespace,
  taskQueue: 'encryption',
  workflowsPath: fileURLToPath(new URL('./workflows.js', import.meta.url)),
  activities,
  ...encryptedPayloads(),
});
console.log('worker ready');
await worker.run();
await connection.close();
