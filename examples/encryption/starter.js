import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { encryptedPayloads, namespace } from './encryption.js';
import { treat } from './workflows.js';

const { TEMPORAL_ADDRESS: address = '127.0.0.1:7233', WORKFLOW_ID = `encryption-${randomUUID()}` } = process.env;

// 380 kB that nobody else may read
const patient = { name: 'Ada Lovelace', findings: 'blood pressure 117 to 76\n'.repeat(15_000) };

const connection = await Connection.connect({ address });
const client = new Client({ connection, namespace, ...encryptedPayloads() });
const handle = await client.workflow.start(treat, {
  workflowId: WORKFLOW_ID,
  taskQueue: 'encryption',
  args: [patient],
});
console.log(`started ${WORKFLOW_ID}`);
console.log(`result: ${await handle.result()}`);
await connection.close();
