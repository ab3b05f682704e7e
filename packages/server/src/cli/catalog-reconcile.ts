import { LpsError } from '@large-payload/core';
import type { Command } from 'commander';
import { type ReconcileCounts, type ReconcileProgress, reconcile } from '../care/reconcile.js';
import { addCareOptions, type CareFlags, counted, damageFound, findingText } from './care-options.js';
import { addCatalogTarget, type CatalogTarget, restorePinsOf, withCatalogTarget } from './catalog-target.js';
import { type Status, statusLine } from './status-line.js';
import { roughBytes, type Terminal } from './terminal.js';

interface ReconcileFlags extends CareFlags {
  readonly dryRun?: boolean;
  readonly takeOver?: string;
}

/** `lps catalog reconcile` */
export function addReconcile(catalog: Command, terminal: Terminal): void {
  const command = catalog
    .command('reconcile')
    .summary('Compare catalog and store both ways, and correct the catalog.')
    .description(
      'Compare catalog and store both ways. Objects that the catalog does not know are hashed and taken in; blobs whose ' +
        'object is gone or wrong are marked damaged. Nothing is deleted but what was taken down. With an empty catalog this makes it again from ' +
        'the store alone.',
    )
    .option('--dry-run', 'only say what would be done')
    .option('--take-over <id>', 'give the store of this lost catalog to the present, empty one');
  addCatalogTarget(addCareOptions(command, '0'))
    .addHelpText('after', '\nEnds with 1 when blobs are damaged or could not be read.\n')
    .action((flags: ReconcileFlags) =>
      withCatalogTarget(command, terminal, { create: true }, (target) => run(flags, target, terminal)),
    );
}

async function run(flags: ReconcileFlags, target: CatalogTarget, terminal: Terminal): Promise<void> {
  const { catalog, store } = target;
  const sinceMs = performance.now();
  let progress: ReconcileProgress | undefined;
  const status = statusLine(terminal, () => statusOf(progress));
  try {
    const counts = await reconcile({
      catalog,
      store,
      dryRun: flags.dryRun === true,
      ...(flags.takeOver === undefined ? {} : { takeOver: flags.takeOver }),
      maxBytesPerSecond: flags.maxRate,
      concurrency: flags.concurrency,
      signal: terminal.signal,
      restorePins: () => restorePinsOf(target, store),
      onFinding: (finding) => status.print(findingText(finding, flags.json)),
      onProgress: (now) => {
        progress = now;
      },
    });
    status.end();
    const seconds = Math.round(performance.now() - sinceMs) / 1000;
    if (flags.json)
      status.print(JSON.stringify({ kind: 'summary', dryRun: flags.dryRun === true, ...counts, seconds }));
    else for (const line of asText(counts, seconds, flags.dryRun === true)) status.print(line);
    throwFor(counts);
  } finally {
    status.end();
  }
}

function statusOf(progress: ReconcileProgress | undefined): Status {
  if (progress === undefined) return { text: 'looking at the store' };
  const { step, counts, fraction } = progress;
  const { objects, adopted, hashedBytes, damaged } = counts;
  const found = `${adopted.toLocaleString('en-US')} taken in, ${damaged.toLocaleString('en-US')} damaged`;
  if (step === 'objects') return { text: `${counted(objects, 'object')}, ${roughBytes(hashedBytes)} read, ${found}` };
  return { text: `looking for the objects of the rows, ${found}`, ...(fraction === undefined ? {} : { fraction }) };
}

function asText(counts: ReconcileCounts, seconds: number, isDryRun: boolean): string[] {
  const would = isDryRun ? 'would be ' : '';
  const lines = [
    `${counted(counts.objects, 'object')}, ${roughBytes(counts.bytes)} in the store; ${seconds.toFixed(1)} s`,
    `${counted(counts.known, 'blob')} as the catalog says`,
  ];
  const add = (count: number, text: string): void => {
    if (count > 0) lines.push(`${count.toLocaleString('en-US')} ${text}`);
  };
  add(counts.adopted, `${would}taken into the catalog, ${roughBytes(counts.adoptedBytes)}`);
  add(counts.pins, `${counts.pins === 1 ? 'pin' : 'pins'} taken over`);
  add(counts.takedowns, `${counts.takedowns === 1 ? 'takedown' : 'takedowns'} in the store`);
  add(counts.takenDown, 'taken down by them, in the catalog');
  add(counts.erased, `${would}deleted again: they were taken down`);
  add(counts.healed, `${would}right again, marked damaged before`);
  add(counts.corrected, `${would}given their right size`);
  add(counts.moved, `${would}found in a later generation`);
  add(counts.damaged, `damaged, ${counts.marked} of them ${would}marked now`);
  add(counts.unreadable, 'could not be read');
  add(counts.rejected, 'unknown and wrong, left alone');
  add(counts.stray, 'strays of other generations, left alone');
  add(counts.uploading, 'being uploaded');
  add(counts.retired, 'about to be deleted');
  add(counts.v1, "of version 1, which the catalog doesn't keep");
  add(counts.own, "of the service's own");
  add(counts.foreign, 'with foreign names, left alone');
  return lines;
}

function throwFor({ damaged, unreadable }: ReconcileCounts): void {
  if (damaged > 0) throw damageFound(damaged);
  if (unreadable === 0) return;
  const message = `${counted(unreadable, 'object')} could not be read, so nothing is known about them`;
  throw new LpsError('STORE_UNAVAILABLE', message);
}
