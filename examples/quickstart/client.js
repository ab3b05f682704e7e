import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { blob, fold, resultCount, sizes } from './blobs.js';
import { largePayloads, namespace } from './large-payloads.js';
import { attach, checksumEverything } from './workflows.js';

const { TEMPORAL_ADDRESS: address = '127.0.0.1:7233', WORKFLOW_ID = `quickstart-${randomUUID()}` } = process.env;

const argument = blob(100, sizes.argument);
const attachment = blob(101, sizes.signal);

const connection = await Connection.connect({ address });
const client = new Client({ connection, namespace, ...largePayloads() });
const handle = await client.workflow.start(checksumEverything, {
  workflowId: WORKFLOW_ID,
  taskQueue: 'quickstart',
  args: [argument],
});
console.log(`started ${WORKFLOW_ID}`);
await handle.signal(attach, attachment);
const result = await handle.result();
await connection.close();

const results = Array.from({ length: resultCount }, (_, number) => blob(number, sizes.result));
const expected = [argument, ...results, attachment, argument].reduce(fold, 0);
console.log(`result ${result}, ${result === expected ? 'as expected' : `but expected ${expected}`}`);
process.exitCode = result === expected ? 0 : 1;
