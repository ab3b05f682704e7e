// A server of files: their bytes in S3, their rows in Postgres. Kill it at any moment, start it again: what it was
// doing is finished, or nothing is left of it.
import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { GetObjectCommand } from '@aws-sdk/client-s3';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { newFileKey } from '@large-payload/dbos';
import { bucket, client, deleteFile, listFiles, migrate, pool, presignedUpload, uploadFile } from './files.js';
import { filesPage, messagePage, uploadPage } from './pages.js';

const postSeconds = 300;

const routes = {
  'GET /': async (_request, response) => sendHtml(response, 200, filesPage(await listFiles())),

  'GET /files': async (_request, response) => sendJson(response, 200, await listFiles()),

  /** The bytes come through this server: into a file first, since a workflow's input is no place for them. */
  'PUT /files/': async (request, response, name) => {
    const path = join(tmpdir(), `upload-${randomUUID()}`);
    try {
      await pipeline(request, createWriteStream(path, { flags: 'wx' }));
      const contentType = request.headers['content-type'];
      const file = { key: newFileKey('files/'), name };
      await uploadFile(file, { path }, contentType === undefined ? {} : { contentType });
      sendJson(response, 201, file);
    } finally {
      await rm(path, { force: true });
    }
  },

  'GET /files/': async (_request, response, key) => {
    const { Body: body, ContentLength: size } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
    response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-length': size });
    await pipeline(body, response);
  },

  'DELETE /files/': async (_request, response, key) => {
    await deleteFile({ key });
    response.writeHead(204).end();
  },

  /** The bytes go from the browser to the bucket. The workflow's id comes back with the browser. */
  'GET /upload': async (request, response) => {
    const name = queryOf(request).get('name') ?? 'unnamed';
    const workflowID = randomUUID();
    const redirectTo = `http://${request.headers.host}/uploaded?id=${workflowID}`;
    const file = { key: newFileKey('files/'), name };
    await DBOS.startWorkflow(presignedUpload, { workflowID })(file, postSeconds, { redirectTo });
    const post = await DBOS.getEvent(workflowID, 'uploadkey');
    if (post === null) await DBOS.retrieveWorkflow(workflowID).getResult(); // throws what went wrong
    sendHtml(response, 200, uploadPage(name, post));
  },

  'GET /uploaded': (request, response) => finish(request, response, true),
  'GET /cancel': (request, response) => finish(request, response, false),
};

async function finish(request, response, isThere) {
  const id = queryOf(request).get('id') ?? '';
  await DBOS.send(id, isThere, 'uploadfinish');
  try {
    const { name } = await DBOS.retrieveWorkflow(id).getResult();
    sendHtml(response, 200, messagePage('Uploaded', `${name} is there`));
  } catch (error) {
    sendHtml(response, 409, messagePage('Not uploaded', error.message));
  }
}

const server = createServer(async (request, response) => {
  try {
    const [path = '/'] = (request.url ?? '/').split('?');
    const [, collection = '', rest] = /^\/([^/]*)(?:\/(.*))?$/.exec(path) ?? [];
    const route = routes[`${request.method} /${collection}${rest ? '/' : ''}`];
    if (route === undefined) return sendJson(response, 404, { error: 'not found' });
    await route(request, response, decodeURIComponent(rest ?? ''));
  } catch (error) {
    const isAbsent = error.name === 'NoSuchKey';
    if (!isAbsent) console.error(error);
    if (response.headersSent) response.destroy();
    else sendJson(response, isAbsent ? 404 : 500, { error: error.message });
  }
});

const queryOf = (request) => new URL(request.url, 'http://localhost').searchParams;

function sendJson(response, status, value) {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

function sendHtml(response, status, html) {
  response.writeHead(status, { 'content-type': 'text/html; charset=utf-8' }).end(html);
}

await migrate();
DBOS.setConfig({
  name: 'dbos-files',
  systemDatabaseUrl: process.env.DATABASE_URL,
  applicationVersion: '1', // the same for every build that can finish the other's workflows
});
await DBOS.launch();
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
process.once('SIGTERM', async () => {
  server.close();
  await DBOS.shutdown();
  await pool.end();
});
