import { LpsError } from '@large-payload/core';
import type { Command } from 'commander';
import { type ScrubProgress, type ScrubReport, scrub } from '../care/scrub.js';
import { addCareOptions, type CareFlags, counted, damageFound, findingText } from './care-options.js';
import { addCatalogTarget, type CatalogTarget, withCatalogTarget } from './catalog-target.js';
import { type Status, statusLine } from './status-line.js';
import { roughBytes, type Terminal } from './terminal.js';

interface ScrubFlags extends CareFlags {
  readonly restart?: boolean;
}

/** `lps scrub` */
export function addScrub(program: Command, terminal: Terminal): void {
  const command = program
    .command('scrub')
    .summary('Read everything that is stored again, and find what is damaged.')
    .description(
      'Read every blob from the store, past any cache, and compare it with its digest. What is missing or wrong is ' +
        'marked: the service answers 404 for it until it is uploaded again. A pass that was broken off is gone on with.',
    )
    .option('--restart', 'begin anew instead of going on with the last pass');
  addCatalogTarget(addCareOptions(command, '50MiB/s'))
    .addHelpText('after', '\nEnds with 1 when blobs are damaged or could not be read.\n')
    .action((flags: ScrubFlags) =>
      withCatalogTarget(command, terminal, { create: false }, (target) => run(flags, target, terminal)),
    );
}

async function run(flags: ScrubFlags, { catalog, store }: CatalogTarget, terminal: Terminal): Promise<void> {
  const sinceMs = performance.now();
  let bytesBefore: number | undefined;
  let progress: ScrubProgress = { blobs: 0, bytes: 0, damaged: 0, fraction: 0 };
  const status = statusLine(terminal, () => statusOf(progress, bytesBefore ?? 0, performance.now() - sinceMs));
  try {
    const report = await scrub({
      catalog,
      store,
      signal: terminal.signal,
      maxBytesPerSecond: flags.maxRate,
      concurrency: flags.concurrency,
      restart: flags.restart === true,
      onStart: ({ afterId, startedAt, counts }) => {
        bytesBefore = counts.bytes;
        if (afterId === 0n || flags.json) return;
        const since = startedAt.toISOString().replace(/\.\d+Z$/, 'Z');
        status.print(`going on with the pass of ${since}: ${counted(counts.blobs, 'blob')} done`);
      },
      onFinding: (finding) => status.print(findingText(finding, flags.json)),
      onProgress: (now) => {
        progress = now;
      },
    });
    status.end();
    status.print(flags.json ? asJson(report) : asText(report));
    throwFor(report);
  } finally {
    status.end();
  }
}

function statusOf({ blobs, bytes, damaged, fraction }: ScrubProgress, bytesBefore: number, elapsedMs: number): Status {
  const rate = roughBytes(Math.round(((bytes - bytesBefore) / Math.max(1, elapsedMs)) * 1000));
  const text = `${counted(blobs, 'blob')}, ${damaged.toLocaleString('en-US')} damaged, ${roughBytes(bytes)}, ${rate}/s`;
  return { text, fraction };
}

function asText({ blobs, bytes, damaged, marked, healed, unreadable, elapsedMs }: ScrubReport): string {
  const parts = [
    `${counted(damaged, 'damaged blob')}${marked < damaged ? ` (${marked === 0 ? 'none' : marked} of them new)` : ''}`,
    ...(healed > 0 ? [`${healed} right again`] : []),
    ...(unreadable > 0 ? [`${unreadable} that could not be read`] : []),
  ];
  const what = `${counted(blobs, 'blob')}, ${roughBytes(bytes)} in ${(elapsedMs / 1000).toFixed(1)} s`;
  return `${what}: ${parts.join(', ')}`;
}

/** `{"kind":"summary","blobs":3,…}`: bytes and seconds as numbers, over all processes that made this pass. */
function asJson({ elapsedMs, ...report }: ScrubReport): string {
  return JSON.stringify({ kind: 'summary', ...report, seconds: elapsedMs / 1000 });
}

function throwFor({ damaged, unreadable }: ScrubReport): void {
  if (damaged > 0) throw damageFound(damaged);
  if (unreadable === 0) return;
  const message = `${counted(unreadable, 'blob')} could not be read, so nothing is known about them`;
  throw new LpsError('STORE_UNAVAILABLE', message);
}
