/**
 * Reads what ./export.ts wrote into an empty catalog: everything in one transaction, or nothing.
 *
 * Ids, states, generations and times stay as they were, and the catalog gets the id of the exported one: so the store
 * belongs to it. Two things differ on purpose. `rebuilt_at` is now: uses since the export are not known, and the
 * collection has to find out again who holds what. And a blob that was being uploaded gets a lease that is over: the
 * service asks the store what became of it. A takedown that was under way goes on from its acceptance, and the numbers of
 * events go on behind all that were given out since: nodes forget what they keep.
 */
import { createHash } from 'node:crypto';
import { LpsError } from '@large-payload/core';
import pg from 'pg';
import { renumberEvents } from './care-sql.js';
import { asCatalogError, connectionSettings } from './database.js';
import {
  type ExportCounts,
  type ExportHeader,
  exportTables,
  noRows,
  parseHeader,
  parseLine,
  type RowLine,
  refused,
} from './export-format.js';
import { prepare } from './postgres-catalog.js';

export interface ImportOptions {
  readonly url: string;
  readonly schema: string;
  /** The text, unpacked. */
  readonly input: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
  /** Asked before a row is written; throws when this is not the catalog that is wanted. */
  readonly check: (header: ExportHeader) => Promise<void>;
  readonly onProgress?: (counts: Readonly<ExportCounts>) => void;
}

const rowsAtOnce = 1000;
const bytesAtOnce = 8 * 1024 * 1024;
/** Of the header, which says what kind of file this is. */
const maxFirstLineBytes = 64 * 1024;
/** A takedown of a million blobs has a receipt of some hundred megabytes. */
const maxLineBytes = 512 * 1024 * 1024;
const lineFeed = 0x0a;

/** Throws INVALID_ARGUMENT for a file that is not whole and right, CONFIG_INVALID when the catalog is not empty. */
export async function importCatalog(options: ImportOptions): Promise<ExportCounts> {
  const { url, schema, signal } = options;
  await prepare(url, schema);
  const client = new pg.Client(connectionSettings(url, 'lps catalog import'));
  client.on('error', () => undefined); // the statement under way fails as well
  try {
    await client.connect();
    await client.query('BEGIN');
    await client.query(`SET LOCAL lock_timeout = '10s'`);
    // nobody else adds a row from here on
    await client.query(
      `LOCK TABLE ${[...exportTables, 'lease'].map((table) => `${schema}.${table}`).join(', ')} IN SHARE ROW EXCLUSIVE MODE`,
    );
    await refuseUnlessEmpty(client, schema);
    const counts = await readInto(client, options);
    await client.query('COMMIT');
    return counts;
  } catch (error) {
    signal.throwIfAborted();
    throw asImportError(error);
  } finally {
    await client.end().catch(() => undefined); // what was not committed is rolled back
  }
}

async function refuseUnlessEmpty(client: pg.Client, schema: string): Promise<void> {
  const { rows } = await client.query<{ used: boolean }>(
    `SELECT ${[...exportTables, 'lease'].map((table) => `EXISTS (SELECT FROM ${schema}.${table})`).join(' OR ')} AS used`,
  );
  if (rows[0]?.used === false) return;
  throw new LpsError(
    'CONFIG_INVALID',
    'this catalog is in use already: an export goes into an empty one only. Take another data directory, database or ' +
      '--database-schema, and keep this one until all is well',
  );
}

async function readInto(client: pg.Client, { schema, input, signal, check, onProgress }: ImportOptions) {
  const digest = createHash('sha256');
  const counts = noRows();
  let number = 0;
  let header: ExportHeader | undefined;
  let isWhole = false;
  let rows: RowLine[] = [];
  let bytes = 0;
  const write = async (): Promise<void> => {
    bytes = 0;
    for (const table of exportTables) {
      const ofTable = rows.filter((row) => row.table === table);
      if (ofTable.length > 0) await client.query(inserts(schema)[table], [JSON.stringify(ofTable)]);
    }
    rows = [];
    onProgress?.(counts);
  };
  for await (const { line, isEnded } of linesOf(input)) {
    signal.throwIfAborted();
    number += 1;
    if (isWhole) throw refused(number, 'there is something behind the last line');
    if (!isEnded) throw endsTooEarly(number);
    const text = textOf(line, number);
    if (header === undefined) {
      header = parseHeader(text);
      await check(header);
    } else {
      const parsed = parseLine(text, number);
      if ('end' in parsed) {
        checkEnd(parsed, counts, digest.digest('hex'), number);
        isWhole = true;
        continue;
      }
      counts[parsed.table] += 1;
      rows.push(parsed);
      bytes += line.length;
      if (rows.length >= rowsAtOnce || bytes >= bytesAtOnce) await write();
    }
    digest.update(line);
    digest.update('\n');
  }
  if (header === undefined || !isWhole) throw endsTooEarly(number);
  await write();
  await finish(client, schema, header);
  return counts;
}

function endsTooEarly(number: number): LpsError {
  return refused(number, 'it ends too early, the rest is missing');
}

function checkEnd(
  { end, sha256 }: { end: ExportCounts; sha256: string },
  counts: ExportCounts,
  digest: string,
  number: number,
): void {
  if (exportTables.some((table) => end[table] !== counts[table])) throw refused(number, 'lines are missing');
  if (sha256 !== digest) throw refused(number, 'the file was changed since it was written');
}

async function finish(client: pg.Client, schema: string, { catalog, createdAt }: ExportHeader): Promise<void> {
  await client.query(
    `SELECT setval(pg_get_serial_sequence('${schema}.blob', 'id'), greatest(1, max(id)), max(id) IS NOT NULL)
      FROM (SELECT max(id) AS id FROM ${schema}.blob UNION ALL SELECT max(blob_id) FROM ${schema}.retired_object) used`,
  );
  await client.query(
    `INSERT INTO ${schema}.lease (blob_id, generation, size, expires_at)
      SELECT id, generation, size, now() FROM ${schema}.blob WHERE state = 'uploading'`,
  );
  await client.query(`DELETE FROM ${schema}.scrub`);
  await client.query(renumberEvents(schema));
  await client.query(`UPDATE ${schema}.catalog SET id = $1, created_at = $2, rebuilt_at = now()`, [catalog, createdAt]);
}

/** $1 is a JSON array of lines. */
function inserts(schema: string): Record<RowLine['table'], string> {
  return {
    blob: `INSERT INTO ${schema}.blob (id, namespace, prefix, digest, metadata_digest, size, state, generation,
        physical_suffix, created_at, touched_at, quarantined_at, damaged_at) OVERRIDING SYSTEM VALUE
      SELECT id, namespace, prefix, decode(digest, 'hex'), decode("metadataDigest", 'hex'), size,
        state::${schema}.blob_state, generation, suffix, "createdAt", "touchedAt", "quarantinedAt", "damagedAt"
      FROM json_to_recordset($1::json) AS line (id bigint, namespace text, prefix text, digest text,
        "metadataDigest" text, size bigint, state text, generation int, suffix text, "createdAt" timestamptz,
        "touchedAt" timestamptz, "quarantinedAt" timestamptz, "damagedAt" timestamptz)`,
    retired_object: `INSERT INTO ${schema}.retired_object (blob_id, generation, physical_key, size, retired_at)
      SELECT "blobId", generation, "physicalKey", size, "retiredAt" FROM json_to_recordset($1::json)
        AS line ("blobId" bigint, generation int, "physicalKey" text, size bigint, "retiredAt" timestamptz)`,
    takedown: `INSERT INTO ${schema}.takedown (id, namespace, selector, with_same_digest, is_blocking, reason, requested_by,
        requested_at, state, accepted_at, completed_at, looked_at, problem, receipt)
      SELECT id, namespace, selector, "withSameDigest", "isBlocking", reason, "requestedBy", "requestedAt", state,
        "acceptedAt", "completedAt", "lookedAt", problem, receipt FROM json_to_recordset($1::json)
        AS line (id uuid, namespace text, selector jsonb, "withSameDigest" boolean, "isBlocking" boolean, reason text,
          "requestedBy" text, "requestedAt" timestamptz, state text, "acceptedAt" timestamptz, "completedAt" timestamptz,
          "lookedAt" timestamptz, problem text, receipt text)`,
    takedown_blob: `INSERT INTO ${schema}.takedown_blob (takedown_id, physical_key, key, blob_id, size, objects, erased_at)
      SELECT "takedownId", "physicalKey", key, "blobId", size, objects, "erasedAt" FROM json_to_recordset($1::json)
        AS line ("takedownId" uuid, "physicalKey" text, key text, "blobId" bigint, size bigint, objects int,
          "erasedAt" timestamptz)`,
    takedown_digest: `INSERT INTO ${schema}.takedown_digest (takedown_id, digest)
      SELECT "takedownId", decode(digest, 'hex') FROM json_to_recordset($1::json) AS line ("takedownId" uuid, digest text)`,
    block: `INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id, created_at)
      SELECT namespace, decode(digest, 'hex'), "isAnyPrefix", prefix, "takedownId", "createdAt"
      FROM json_to_recordset($1::json) AS line (namespace text, digest text, "isAnyPrefix" boolean, prefix text,
        "takedownId" uuid, "createdAt" timestamptz)`,
  };
}

/** Split at line feeds alone: names may hold what other readers of lines take for an end. */
async function* linesOf(
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<{ readonly line: Uint8Array; readonly isEnded: boolean }, void> {
  let pieces: Uint8Array[] = [];
  let bytes = 0;
  let isFirst = true;
  for await (const chunk of input) {
    let from = 0;
    for (let at = chunk.indexOf(lineFeed); at >= 0; at = chunk.indexOf(lineFeed, from)) {
      const piece = chunk.subarray(from, at);
      yield { line: pieces.length === 0 ? piece : Buffer.concat([...pieces, piece]), isEnded: true };
      [pieces, bytes, isFirst] = [[], 0, false];
      from = at + 1;
    }
    pieces.push(chunk.subarray(from));
    bytes += chunk.length - from;
    if (bytes > (isFirst ? maxFirstLineBytes : maxLineBytes))
      throw new LpsError('INVALID_ARGUMENT', 'this is not the export of a catalog');
  }
  if (bytes > 0) yield { line: Buffer.concat(pieces), isEnded: false };
}

function textOf(line: Uint8Array, number: number): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(line);
  } catch {
    throw refused(number, 'it is not text');
  }
}

/** What Postgres refuses here was wrong in the file, with a right digest: nobody but a person wrote that. */
function asImportError(error: unknown): LpsError {
  if (error instanceof pg.DatabaseError && /^2[23]/.test(error.code ?? '')) {
    const message = 'the export holds rows that cannot stand together; nothing was imported';
    return new LpsError('INVALID_ARGUMENT', message, { cause: error, details: { sqlState: error.code } });
  }
  return asCatalogError(error);
}
