import { createReadStream } from 'node:fs';
import { resolve } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { isLpsError, LpsError } from '@large-payload/core';
import type { Command } from 'commander';
import { readOwner } from '../bucket-owner.js';
import { restoreTakedowns } from '../care/restore-takedowns.js';
import { rowsIn } from '../catalog/export-format.js';
import { openStore } from '../open-store.js';
import { counted } from './care-options.js';
import { addCatalogTarget, type DatabaseTarget, restorePinsOf, withDatabase } from './catalog-target.js';
import { statusLine } from './status-line.js';
import type { Terminal } from './terminal.js';

/** `lps catalog import` */
export function addImport(catalog: Command, terminal: Terminal): void {
  const command = catalog
    .command('import')
    .summary('Read an export into an empty catalog.')
    .description(
      'Read what "lps catalog export" wrote into an empty catalog: all of it, or nothing. The store must be the one ' +
        'that the exported catalog belonged to. Stop the service first.',
    )
    .argument('<file>', 'the export, packed or not; - for standard input');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps catalog import catalog.jsonl.gz --data-dir /var/lib/lps\n')
    .action((file: string) =>
      withDatabase(command, terminal, { create: true }, (target) => run(file, target, terminal)),
    );
}

async function run(file: string, target: DatabaseTarget, terminal: Terminal): Promise<void> {
  const { url, schema, config, isInUse } = target;
  if (isInUse) {
    const message = 'a service runs on this data directory: stop it first, it would go on with what it knows';
    throw new LpsError('DATA_DIR_IN_USE', message);
  }
  const { importCatalog } = await import('../catalog/import.js'); // and with it what talks to Postgres
  let rows = 0;
  const status = statusLine(terminal, () => ({ text: `${counted(rows, 'row')} read` }));
  try {
    const counts = await importCatalog({
      url,
      schema,
      input: unpacked(bytesOf(file, terminal), file),
      signal: terminal.signal,
      check: ({ catalog }) => mustOwnStore(config, catalog),
      onProgress: (now) => {
        rows = rowsIn(now);
      },
    });
    const pins = await restoredPins(target);
    const takedowns = await restoredTakedowns(target);
    status.end();
    if (takedowns > 0) terminal.stderr.write(`lps: ${counted(takedowns, 'takedown')} read from the store\n`);
    if (pins > 0) terminal.stderr.write(`lps: ${counted(pins, 'pin')} taken over from the store\n`);
    terminal.stderr.write(
      `lps: ${counted(counts.blob, 'blob')} and ${counted(counts.retired_object, 'retired object')} read. ` +
        'Uploads since the export are missing: "lps catalog reconcile" takes them in\n',
    );
  } finally {
    status.end();
  }
}

/** They are in the store, and not in the export: so those made since are there as well. */
async function restoredPins(target: DatabaseTarget): Promise<number> {
  const store = await openStore(target.config);
  try {
    return await restorePinsOf(target, store);
  } finally {
    await store.close?.();
  }
}

/** Those made since the export as well: what they erase must not come back, not even until the next reconcile. */
async function restoredTakedowns({ url, schema, config }: DatabaseTarget): Promise<number> {
  const { openCareCatalog } = await import('../catalog/care-catalog.js');
  const [store, catalog] = [await openStore(config), await openCareCatalog({ url, schema })];
  try {
    return await restoreTakedowns(store, catalog);
  } finally {
    await catalog.close();
    await store.close?.();
  }
}

/** An export beside another store would have every blob of it damaged. */
async function mustOwnStore(config: DatabaseTarget['config'], exportedId: string): Promise<void> {
  const store = await openStore(config);
  try {
    const owner = await readOwner(store);
    if (owner === exportedId) return;
    const whose = owner === undefined ? 'to no catalog' : `to the catalog ${owner}`;
    throw new LpsError(
      'CONFIG_INVALID',
      `this is the export of the catalog ${exportedId}, and the ${store.name} store here belongs ${whose}: check the ` +
        'settings of the store',
      { details: { exportedId, owner } },
    );
  } finally {
    await store.close?.();
  }
}

async function* bytesOf(file: string, terminal: Terminal): AsyncGenerator<Uint8Array, void> {
  const input = file === '-' ? terminal.stdin : createReadStream(resolve(terminal.cwd, file));
  try {
    for await (const chunk of input as AsyncIterable<Uint8Array>) yield chunk;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    const reasons: Record<string, string> = { ENOENT: 'it does not exist', EISDIR: 'it is a directory' };
    const reason = reasons[code] ?? (code || 'unknown error');
    throw new LpsError('INVALID_ARGUMENT', `the file ${JSON.stringify(file)} cannot be read: ${reason}`, { cause });
  }
}

/** By its first two bytes, whatever its name is. */
async function* unpacked(input: AsyncGenerator<Uint8Array, void>, file: string): AsyncGenerator<Uint8Array, void> {
  const first = await input.next();
  if (first.done) return;
  const whole = async function* (): AsyncGenerator<Uint8Array, void> {
    yield first.value;
    yield* input;
  };
  if (first.value[0] !== 0x1f || first.value[1] !== 0x8b) return yield* whole();
  try {
    const packed = Readable.from(whole(), { objectMode: false });
    yield* pipeline(packed, createGunzip(), () => {}) as AsyncIterable<Uint8Array>;
  } catch (cause) {
    if (isLpsError(cause)) throw cause;
    const message = `the file ${JSON.stringify(file)} is cut off or damaged; nothing was imported`;
    throw new LpsError('INVALID_ARGUMENT', message, { cause });
  }
}
