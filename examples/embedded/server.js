import http from 'node:http';
import { openFileStore, openS3Store } from '@large-payload/core';
import { createRequestHandler, serverOptions } from '@large-payload/server';

const { PORT = '8577', DATA_DIR = './data', S3_BUCKET: bucket, S3_ENDPOINT: endpoint } = process.env;

// any BlobStore will do
const store = bucket
  ? await openS3Store({ bucket, ...(endpoint && { endpoint }) })
  : await openFileStore({ dir: DATA_DIR });
const payloads = createRequestHandler({ store, basePath: '/payloads' });

const server = http.createServer(serverOptions, (request, response) =>
  // who may call is yours to decide, here, before the handler
  payloads(request, response, () => response.writeHead(404).end('this server has other pages, too\n')),
);
payloads.attach(server); // for clients that send `Expect: 100-continue`
server.listen(Number(PORT), '127.0.0.1', () => {
  console.log(`payloads at http://127.0.0.1:${server.address().port}/payloads, kept in ${store.name}`);
});

process.once('SIGTERM', async () => {
  server.close();
  await payloads.close(); // requests under way are answered first
  await store.close?.();
});
