/** Writes a catalog as ./export-format.ts describes it: one consistent snapshot, a thousand rows in memory at a time. */
import { createHash } from 'node:crypto';
import pg from 'pg';
import { asCatalogError, connectionSettings } from './database.js';
import { type ExportCounts, exportTables, formatName, formatVersion, noRows, type RowLine } from './export-format.js';
import { prepare } from './postgres-catalog.js';

export interface ExportOptions {
  readonly url: string;
  readonly schema: string;
  readonly signal: AbortSignal;
}

/** Some lines, and how many rows were written so far, these included. */
export interface ExportPart {
  readonly text: string;
  readonly counts: Readonly<ExportCounts>;
}

const rowsAtOnce = 1000;
/** A receipt may have many megabytes. */
const takedownsAtOnce = 1;

/** Yields the text from its first line to its last. Throws CATALOG_UNAVAILABLE, and AbortError when stopped. */
export async function* exportCatalog({ url, schema, signal }: ExportOptions): AsyncGenerator<ExportPart, void> {
  await prepare(url, schema);
  const client = new pg.Client(connectionSettings(url, 'lps catalog export'));
  client.on('error', () => undefined); // the statement under way fails as well
  const digest = createHash('sha256');
  const counts = noRows();
  const part = (lines: readonly string[]): ExportPart => {
    const text = `${lines.join('\n')}\n`;
    digest.update(text);
    return { text, counts };
  };
  try {
    await client.connect();
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    yield part(await linesOf(client, headerOf(schema)));
    for (const table of exportTables) {
      await client.query(`DECLARE export_${table} NO SCROLL CURSOR FOR ${selects(schema)[table]}`);
      for (;;) {
        signal.throwIfAborted();
        const lines = await linesOf(
          client,
          `FETCH ${table === 'takedown' ? takedownsAtOnce : rowsAtOnce} FROM export_${table}`,
        );
        if (lines.length === 0) break;
        counts[table] += lines.length;
        yield part(lines);
      }
    }
    await client.query('COMMIT');
    yield { text: `${JSON.stringify({ end: counts, sha256: digest.digest('hex') })}\n`, counts };
  } catch (error) {
    signal.throwIfAborted();
    throw asCatalogError(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function linesOf(client: pg.Client, text: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(text);
  return rows.map(({ line }) => line);
}

function headerOf(schema: string): string {
  return `SELECT json_build_object('format', '${formatName}', 'version', ${formatVersion}, 'catalog', id,
    'createdAt', ${utc('created_at')}, 'exportedAt', ${utc('now()')})::text AS line FROM ${schema}.catalog`;
}

function selects(schema: string): Record<RowLine['table'], string> {
  return {
    blob: `SELECT json_build_object('table', 'blob', 'id', id::text, 'namespace', namespace, 'prefix', prefix,
      'digest', encode(digest, 'hex'), 'metadataDigest', encode(metadata_digest, 'hex'), 'size', size, 'state', state,
      'generation', generation, 'suffix', physical_suffix, 'createdAt', ${utc('created_at')},
      'touchedAt', ${utc('touched_at')}, 'quarantinedAt', ${utc('quarantined_at')}, 'damagedAt', ${utc('damaged_at')}
      )::text AS line FROM ${schema}.blob ORDER BY id`,
    retired_object: `SELECT json_build_object('table', 'retired_object', 'blobId', blob_id::text,
      'generation', generation, 'physicalKey', physical_key, 'size', size, 'retiredAt', ${utc('retired_at')}
      )::text AS line FROM ${schema}.retired_object ORDER BY blob_id, generation`,
    takedown: `SELECT json_build_object('table', 'takedown', 'id', id, 'namespace', namespace, 'selector', selector,
      'withSameDigest', with_same_digest, 'isBlocking', is_blocking, 'reason', reason, 'requestedBy', requested_by,
      'requestedAt', ${utc('requested_at')}, 'state', state, 'acceptedAt', ${utc('accepted_at')},
      'completedAt', ${utc('completed_at')}, 'lookedAt', ${utc('looked_at')}, 'problem', problem, 'receipt', receipt
      )::text AS line FROM ${schema}.takedown ORDER BY id`,
    takedown_blob: `SELECT json_build_object('table', 'takedown_blob', 'takedownId', takedown_id, 'physicalKey', physical_key,
      'key', key, 'blobId', blob_id::text, 'size', size, 'objects', objects, 'erasedAt', ${utc('erased_at')}
      )::text AS line FROM ${schema}.takedown_blob ORDER BY takedown_id, physical_key`,
    takedown_digest: `SELECT json_build_object('table', 'takedown_digest', 'takedownId', takedown_id,
      'digest', encode(digest, 'hex'))::text AS line FROM ${schema}.takedown_digest ORDER BY takedown_id, digest`,
    block: `SELECT json_build_object('table', 'block', 'namespace', namespace, 'digest', encode(digest, 'hex'),
      'isAnyPrefix', is_any_prefix, 'prefix', prefix, 'takedownId', takedown_id, 'createdAt', ${utc('created_at')}
      )::text AS line FROM ${schema}.block ORDER BY namespace, digest, is_any_prefix, prefix`,
  };
}

function utc(time: string): string {
  return `to_char(${time} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;
}
