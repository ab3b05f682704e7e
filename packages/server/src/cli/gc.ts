import { LpsError, parseKey } from '@large-payload/core';
import { type Command, Option } from 'commander';
import type { AuditEntry } from '../auth/audit.js';
import { formatBytes } from '../config/kinds.js';
import type { Config } from '../config/settings.js';
import type { ClusterSettings } from '../lifecycle/clusters.js';
import type { JudgeOptions } from '../lifecycle/judge.js';
import type {
  Brake,
  BrakeKind,
  KnownNamespace,
  LifecycleCatalog,
  Mark,
  StateSum,
} from '../lifecycle/lifecycle-catalog.js';
import { addCatalogTarget, withDatabase } from './catalog-target.js';
import { shown, type Terminal } from './terminal.js';
import { userName } from './user-name.js';

/** What the commands work on. */
interface Place {
  readonly catalog: LifecycleCatalog;
  readonly config: Config;
  readonly judging: JudgeOptions;
  readonly clusters: readonly ClusterSettings[];
  /** One line on standard output. */
  print(line: string): void;
  /** For those who ask later who did it: in which namespaces of blobs (all: none is given), and to what. */
  record(action: string, namespace: string | undefined, ...subjects: string[]): Promise<void>;
}

const json = (value: unknown): string =>
  JSON.stringify(value, (_name, one) => (typeof one === 'bigint' ? String(one) : (one as unknown)));

/** `lps gc …` */
export function addGc(program: Command, terminal: Terminal): void {
  const gc = program
    .command('gc')
    .description(
      'The collection of what no workflow holds: how it stands, what would go, and why; stop it, let it go on.',
    );
  addStatus(gc, terminal);
  addPlan(gc, terminal);
  addRun(gc, terminal);
  addPause(gc, terminal);
  addResume(gc, terminal);
  addExplain(gc, terminal);
  addUndelete(gc, terminal);
  addForget(gc, terminal);
}

function addStatus(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('status')
    .summary('Say how the collection stands, and what stops it.')
    .description(
      'Say when the last round began, how the last mark of each Temporal namespace ended, what stops the collection, and ' +
        'how much there is in which state.',
    )
    .option('--json', 'print one JSON object');
  addCatalogTarget(command, 'Collection').action((flags: { json?: boolean }) =>
    onCollection(command, terminal, async ({ catalog, judging, print }) => {
      const { beganAt, requestedAt } = await catalog.roundTimes();
      const namespaces = await Promise.all(
        (await catalog.knownNamespaces()).map(async (known) => ({ known, marks: await catalog.marksOf(known, 1) })),
      );
      const isKnown = (name: string): boolean => namespaces.some(({ known }) => known.cluster === name);
      const unreached = judging.clusters.map(({ name }) => name).filter((name) => !isKnown(name));
      const brakes = await catalog.brakes();
      const sums = Object.fromEntries(await catalog.sums());
      if (flags.json) return print(json({ beganAt, requestedAt, namespaces, unreached, brakes, sums }));
      print(`last round    ${beganAt?.toISOString() ?? 'none yet'}${requestedAt ? ', another one is asked for' : ''}`);
      for (const { known, marks } of namespaces)
        print(`mark          ${known.cluster}/${known.name}  ${markLine(marks[0])}`);
      for (const cluster of unreached) print(`mark          ${cluster}  has not been reached yet`);
      for (const brake of brakes) print(`stopped       ${brakeLine(brake)}`);
      for (const [state, sum] of Object.entries(sums)) print(`${state.padEnd(12)}  ${sumLine(sum)}`);
      if (brakes.length > 0) terminal.stderr.write('lps: look at the reasons; then "lps gc resume"\n');
    }),
  );
}

function addPlan(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('plan')
    .summary('Say what would go now, and why not the rest.')
    .description(
      'Say, for each namespace of blobs, how much would go in a round now, or what is missing. Changes nothing.',
    )
    .option('--json', 'print one JSON object a line');
  addCatalogTarget(command, 'Collection').action((flags: { json?: boolean }) =>
    onCollection(command, terminal, async ({ catalog, config, judging, print }) => {
      const { judge } = await import('../lifecycle/judge.js');
      const { planSweep } = await import('../lifecycle/sweep.js');
      const { brakesOn } = await import('../lifecycle/brakes.js');
      const brakes = await catalog.brakes();
      for (const blobNamespace of await catalog.blobNamespaces()) {
        const { permission, missing = [] } = await judge(blobNamespace, judging);
        const { quarantineMs } = config;
        const signal = terminal.signal;
        const plan = permission && (await planSweep({ catalog, permission, quarantineMs, signal }));
        const isActing = config.collect.includes(blobNamespace);
        const stops = brakesOn(brakes, blobNamespace).map(brakeLine);
        if (flags.json) {
          print(json({ blobNamespace, isActing, plan, missing, brakes: stops }));
          continue;
        }
        print(`${blobNamespace}${isActing ? '' : '  (dry: not in --collect)'}`);
        if (plan !== undefined)
          print(`  to quarantine  ${sumLine(plan.quarantine)}\n  to delete      ${sumLine(plan.retire)}`);
        for (const reason of [...missing, ...stops]) print(`  nothing goes:  ${reason}`);
      }
    }),
  );
}

function addRun(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('run')
    .summary('Ask for a round now.')
    .description('Ask the service that leads for a round now, and not when it is due. It begins within seconds.');
  addCatalogTarget(command).action(() =>
    onCollection(command, terminal, async ({ catalog, record }) => {
      await catalog.requestRound();
      await record('run collection', undefined);
      terminal.stderr.write('lps: asked for; "lps gc status" shows when it has begun\n');
    }),
  );
}

function addPause(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('pause')
    .summary('Stop the collection.')
    .description(
      'Stop the collection, in one namespace of blobs or in all. Marks go on; nothing is quarantined or deleted.',
    )
    .option('--namespace <name>', 'only there')
    .requiredOption('--reason <text>', 'why; people see it');
  addCatalogTarget(command).action(({ namespace, reason }: { namespace?: string; reason: string }) =>
    onCollection(command, terminal, async ({ catalog, record }) => {
      const place = namespace === undefined ? {} : { blobNamespace: namespace };
      await catalog.brake({ kind: 'paused', reason: `${reason} (${userName()})`, ...place });
      await record('pause collection', namespace, reason);
      terminal.stderr.write('lps: paused\n');
    }),
  );
}

const brakeKinds: readonly BrakeKind[] = [
  'too_much',
  'holders_lost',
  'smaller_configuration',
  'identity_changed',
  'database_restored',
  'lifecycle_rule',
  'revived',
  'paused',
];

function addResume(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('resume')
    .summary('Let the collection go on.')
    .description(
      'Let go of what stops the collection, once you have looked at the reason. With identity_changed, what was known of ' +
        'that Temporal namespace is forgotten, and the one that is there now takes its place.',
    )
    .addOption(new Option('--kind <kind>', 'only this').choices(brakeKinds))
    .option('--namespace <name>', 'only what stops this namespace of blobs');
  addCatalogTarget(command).action((flags: { kind?: BrakeKind; namespace?: string }) =>
    onCollection(command, terminal, async ({ catalog, print, record }) => {
      const set = (await catalog.brakes()).filter(
        ({ kind, blobNamespace }) =>
          (flags.kind === undefined || kind === flags.kind) &&
          (flags.namespace === undefined || blobNamespace === flags.namespace),
      );
      for (const brake of set) {
        if (brake.kind === 'identity_changed') await forgetIdentities(catalog);
        await catalog.release(brake.kind, brake.blobNamespace, userName());
        await record('resume collection', brake.blobNamespace, brake.kind);
        print(`released  ${brakeLine(brake)}`);
      }
      if (set.length === 0) terminal.stderr.write('lps: nothing stops it\n');
    }),
  );
}

/** Those whose last mark was of somebody else. */
async function forgetIdentities(catalog: LifecycleCatalog): Promise<void> {
  const { isOfAnother, nobody } = await import('../lifecycle/mark.js');
  for (const known of await catalog.knownNamespaces()) {
    const [last] = await catalog.marksOf(known, 1);
    if (last !== undefined && isOfAnother(last)) await catalog.acceptIdentity(known, nobody);
  }
}

function addExplain(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('explain')
    .summary('Say why a blob is kept, or when it will go.')
    .description(
      'Say what is known of a blob: its state, its last use, who holds it, pins, and what is still missing. With the clusters ' +
        'file, and "ui-address" in it, each holder has a link to Temporal’s Web UI.',
    )
    .argument('<key>', 'its key')
    .option('--json', 'print one JSON object');
  addCatalogTarget(command, 'Collection').action((text: string, flags: { json?: boolean }) =>
    onCollection(command, terminal, async ({ catalog, clusters, config, judging, print }) => {
      const key = parseKey(text);
      const { holderLink } = await import('../lifecycle/holders/holder-link.js');
      const { judge } = await import('../lifecycle/judge.js');
      const { brakesOn } = await import('../lifecycle/brakes.js');
      const blob = await catalog.blob(key);
      if (blob === undefined) throw new LpsError('BLOB_NOT_FOUND', 'the catalog does not know this blob');
      const holders = (await catalog.holdersOf(key, 100)).map((one) => {
        const uiAddress = clusters.find(({ name }) => name === one.namespace.cluster)?.uiAddress;
        return uiAddress === undefined ? one : { ...one, link: holderLink(uiAddress, one.namespace.name, one.holder) };
      });
      const pins = await catalog.pins(text);
      const { missing = [] } = await judge(key.namespace, judging);
      const brakes = brakesOn(await catalog.brakes(), key.namespace);
      if (flags.json) return print(json({ blob, holders, pins, missing, brakes }));
      const keptUntil = new Date(blob.touchedAt.getTime() + config.graceMs);
      print(`state      ${blob.state}, ${formatBytes(blob.size)}`);
      print(`last use   ${blob.touchedAt.toISOString()}; kept for that until ${keptUntil.toISOString()}`);
      for (const { namespace, holder, isByDigestAlone, lostAt, ...shownAt } of holders) {
        const lost = lostAt === undefined ? '' : `, not found any more since ${lostAt.toISOString()}`;
        const how = isByDigestAlone ? `, only its digest was found${lost}` : lost;
        const gone = holder.goneAt === undefined ? '' : `, gone since ${holder.goneAt.toISOString()}`;
        const id = holder.externalId.replaceAll('\n', ' ');
        print(`held by    ${holder.kind} ${id} of ${namespace.cluster}/${namespace.name}${how}${gone}`);
        if ('link' in shownAt) print(`           ${shownAt.link}`);
      }
      if (holders.length === 0) print('held by    nobody that a mark has seen');
      for (const pin of pins) print(`pinned     ${pin.id} by ${pin.owner}: ${pin.reason}`);
      for (const reason of [...missing, ...brakes.map(brakeLine)]) print(`stopped    ${reason}`);
    }),
  );
}

function addUndelete(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('undelete')
    .summary('Bring a blob back from quarantine.')
    .description(
      'Bring a blob back from quarantine, as its next reader would. One that is deleted cannot be brought back.',
    )
    .argument('<key>', 'its key');
  addCatalogTarget(command).action((text: string) =>
    onCollection(command, terminal, async ({ catalog, record }) => {
      const key = parseKey(text);
      if ((await catalog.undelete(key)) === undefined)
        throw new LpsError('BLOB_NOT_FOUND', 'this blob is not in quarantine');
      await record('undelete', key.namespace, text);
      terminal.stderr.write('lps: it is live again\n');
    }),
  );
}

function addForget(gc: Command, terminal: Terminal): void {
  const command = gc
    .command('forget')
    .summary('Forget a Temporal namespace that is not configured any more.')
    .description(
      'Forget a Temporal namespace that the clusters file does not name any more, and that would stop the collection for ever ' +
        '(smaller_configuration). What only its workflows hold is kept for a while longer, and goes then.',
    )
    .argument('<cluster/namespace>', 'as "lps gc status" shows it')
    .option('--yes', 'do it; without it, it is only said what it means');
  addCatalogTarget(command, 'Collection')
    .addHelpText('after', '\nExample:\n  lps gc forget prod/old-orders --yes --clusters clusters.yaml')
    .action((name: string, { yes = false }: { yes?: boolean }) =>
      onCollection(command, terminal, async (place) => {
        const { catalog, clusters, print, record } = place;
        const known = (await catalog.knownNamespaces()).find((one) => `${one.cluster}/${one.name}` === name);
        if (known === undefined)
          throw new LpsError('INVALID_ARGUMENT', 'it is not known; "lps gc status" shows those that are');
        if (await isConfigured(known, clusters))
          throw new LpsError(
            'INVALID_ARGUMENT',
            'the clusters file names it: take it out there, in all services, first',
          );
        await sayWhatItMeans(known, place);
        if (!yes) throw new LpsError('INVALID_ARGUMENT', 'nothing was done; if that is meant to be so, add --yes');
        if (await catalog.forgetNamespace(known)) await record('forget namespace', undefined, name);
        print(`forgotten  ${name}`);
        terminal.stderr.write('lps: if it has stopped the collection: lps gc resume --kind smaller_configuration\n');
      }),
    );
}

/** Where a cluster's namespaces are all there are, it is asked for them. */
async function isConfigured({ cluster, name }: KnownNamespace, clusters: readonly ClusterSettings[]): Promise<boolean> {
  const settings = clusters.find((one) => one.name === cluster);
  if (settings === undefined) return false;
  const { openCluster } = await import('../lifecycle/temporal/cluster.js');
  const asked = openCluster(settings);
  try {
    return (await asked.namespaces()).some((one) => one.name === name);
  } finally {
    await asked.close();
  }
}

async function sayWhatItMeans(known: KnownNamespace, { catalog, judging, print }: Place): Promise<void> {
  const { lingerOf } = await import('../lifecycle/permission.js');
  const marks = await catalog.marksOf(known, 50);
  const hours = (lingerOf(judging.times, marks) / 3_600_000).toFixed(1);
  print(`last mark  ${markLine(marks[0])}`);
  print(`from now on nobody asks what is held there; what is known to be held is kept for ${hours} h more,`);
  print('and then goes by the usual rules: unused for --grace, two marks, --quarantine');
}

function onCollection(command: Command, terminal: Terminal, run: (place: Place) => Promise<void>): Promise<void> {
  return withDatabase(command, terminal, { create: false }, async ({ url, schema, config }) => {
    // loaded only here, and with it what talks to Postgres
    const { openLifecycleCatalog } = await import('../lifecycle/catalog/postgres-lifecycle.js');
    const { retentionOf, timesOf } = await import('../lifecycle/open-collection.js');
    const { readClusters } = await import('../lifecycle/clusters.js');
    const clusters = config.clusters === undefined ? [] : await readClusters(config.clusters);
    const catalog = await openLifecycleCatalog({ url, schema, graceMs: config.graceMs });
    try {
      const judging = { catalog, clusters, retention: retentionOf(config), times: timesOf(config) };
      await run({
        ...{ catalog, config, judging, clusters },
        async record(action, namespace = '*', ...subjects) {
          const principal = `cli:${userName()}`;
          await recorded({ url, schema }, terminal, {
            principal,
            action,
            namespaces: [namespace],
            subjects,
            status: 200,
          });
        },
        print: (line) => void terminal.stdout.write(`${shown(line, terminal.stdout)}\n`),
      });
    } finally {
      await catalog.close();
    }
  });
}

async function recorded(
  place: { readonly url: string; readonly schema: string },
  terminal: Terminal,
  entry: AuditEntry,
): Promise<void> {
  const { openAccess } = await import('../auth/open-access.js');
  const onAuditLost = () => terminal.stderr.write('lps: this was done, but is missing in the audit\n');
  const access = await openAccess({ ...place, onAuditLost });
  try {
    await access.audit.record(entry);
  } finally {
    await access.close();
  }
}

function markLine(mark: Mark | undefined): string {
  if (mark?.endedAt === undefined) return 'none yet';
  const seconds = Math.round((mark.endedAt.getTime() - mark.startedAt.getTime()) / 1000);
  const outcome = mark.isComplete ? 'complete' : `not complete: ${mark.gaps.join('; ')}`;
  return `${mark.startedAt.toISOString()}  ${seconds} s, ${mark.holders} holders, ${mark.scanned} read  ${outcome}`;
}

function brakeLine({ kind, blobNamespace, reason, since }: Brake): string {
  return `${kind}${blobNamespace === undefined ? '' : ` in ${blobNamespace}`} since ${since.toISOString()}: ${reason}`;
}

function sumLine({ blobs, bytes }: StateSum): string {
  return `${blobs} blobs, ${formatBytes(bytes)}`;
}
