import { LpsError } from '@large-payload/core';
import { type Command, InvalidArgumentError } from 'commander';
import { requireOwner } from '../bucket-owner.js';
import { duration } from '../config/kinds.js';
import type { Pins } from '../lifecycle/catalog/pins.js';
import type { Pin } from '../lifecycle/lifecycle-catalog.js';
import { addCatalogTarget, withCatalogTarget } from './catalog-target.js';
import { escapeControls, shown, type Terminal } from './terminal.js';
import { userName } from './user-name.js';

interface AddFlags {
  readonly reason: string;
  readonly owner?: string;
  readonly expires?: number;
  readonly json?: boolean;
}

const minuteMs = 60_000;
const lifetime = duration(minuteMs, 3650 * 24 * 60 * minuteMs, '90d');

/** `lps pin …` */
export function addPin(program: Command, terminal: Terminal): void {
  const pin = program
    .command('pin')
    .description('Keep blobs, whether a workflow holds them or not; list what is kept so, and let go of it.');
  addAdd(pin, terminal);
  addList(pin, terminal);
  addRemove(pin, terminal);
}

function addAdd(pin: Command, terminal: Terminal): void {
  const command = pin
    .command('add')
    .summary('Keep a blob, or all blobs whose keys begin so.')
    .description(
      'Keep a blob, or all blobs of a namespace whose keys begin so, those that come later as well. The collection ' +
        'deletes none of them. A takedown does.',
    )
    .argument('<key>', 'a key, or a prefix of keys that ends with "/"')
    .requiredOption('--reason <text>', 'why; people see it')
    .option('--owner <name>', 'who to ask about it; without it, you')
    .option('--expires <time>', 'how long it holds, such as 90d; without it until it is removed', lifetimeOf)
    .option('--json', 'print a JSON object');
  addCatalogTarget(command)
    .addHelpText(
      'after',
      `
Examples:
  lps pin add '/blobs/orders/common/sha256:9f86…/sha256:e3b0…' --reason "case 4711"
  lps pin add /blobs/orders/custom/reports/ --reason "until the audit is over" --expires 90d`,
    )
    .action((key: string, { reason, owner = userName(), expires, json }: AddFlags) =>
      onPins(command, terminal, async (pins, now, record) => {
        const expiresAt = expires === undefined ? {} : { expiresAt: new Date((await now()).getTime() + expires) };
        const made = await pins.add({ key, owner, reason, ...expiresAt });
        await record('add pin', made);
        terminal.stdout.write(`${json ? JSON.stringify(made) : made.id}\n`);
        const until = made.expiresAt === undefined ? 'until it is removed' : `until ${made.expiresAt.toISOString()}`;
        terminal.stderr.write(`lps: pinned ${until}\n`);
      }),
    );
}

function addList(pin: Command, terminal: Terminal): void {
  const command = pin
    .command('list')
    .summary('List pins, the newest first.')
    .description('List the pins that still hold, the newest first: id, day of making, end, owner, key, reason.')
    .argument('[key]', 'only those that keep this blob, or something below this prefix')
    .option('--json', 'print one JSON object a line');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps pin list /blobs/orders/')
    .action((key: string | undefined, { json }: { json?: boolean }) =>
      onPins(command, terminal, async (pins) => {
        for (const found of await pins.list(key)) {
          terminal.stdout.write(`${shown(json ? JSON.stringify(found) : lineOf(found), terminal.stdout)}\n`);
        }
      }),
    );
}

function addRemove(pin: Command, terminal: Terminal): void {
  const command = pin
    .command('remove')
    .summary('Let go of what a pin keeps.')
    .description('Remove a pin. What it kept falls under the usual rules of the collection again.')
    .argument('<id>', 'its id, as "lps pin list" shows it');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps pin remove 6f1f0d8a4b7c2e5d9a10')
    .action((id: string) =>
      onPins(command, terminal, async (pins, _now, record) => {
        const pin = (await pins.list()).find((one) => one.id === id);
        if (!(await pins.remove(id))) {
          throw new LpsError('INVALID_ARGUMENT', 'there is no such pin; "lps pin list" shows those that there are');
        }
        if (pin !== undefined) await record('remove pin', pin);
        terminal.stderr.write(`lps: pin ${escapeControls(id)} is removed\n`);
      }),
    );
}

type Record = (action: string, pin: Pin) => Promise<void>;

function onPins(
  command: Command,
  terminal: Terminal,
  run: (pins: Pins, now: () => Promise<Date>, record: Record) => Promise<void>,
): Promise<void> {
  return withCatalogTarget(command, terminal, { create: false }, async ({ url, schema, config, catalog, store }) => {
    // loaded only here, and with it what talks to Postgres
    const { openLifecycleCatalog } = await import('../lifecycle/catalog/postgres-lifecycle.js');
    const { pinsOf } = await import('../lifecycle/catalog/pins.js');
    const { parsePinKey } = await import('../lifecycle/catalog/pin-key.js');
    const { openAccess } = await import('../auth/open-access.js');
    await requireOwner(store, catalog.id); // the pin goes into the store as well
    const onAuditLost = () => terminal.stderr.write('lps: this was done, but is missing in the audit\n');
    const access = await openAccess({ url, schema, onAuditLost });
    const lifecycle = await openLifecycleCatalog({ url, schema, graceMs: config.graceMs });
    const record: Record = (action, { id, key }) => {
      const { namespace } = parsePinKey(key);
      const principal = `cli:${userName()}`;
      return access.audit.record({ principal, action, namespaces: [namespace], subjects: [id, key], status: 200 });
    };
    try {
      await run(pinsOf(lifecycle, store), () => lifecycle.now(), record);
    } finally {
      await lifecycle.close();
      await access.close();
    }
  });
}

/** `6f1f0d8a4b7c2e5d9a10  2026-11-23  2027-02-21  audit  /blobs/orders/custom/reports/  case 4711` */
function lineOf({ id, key, owner, reason, createdAt, expiresAt }: Pin): string {
  const day = (time: Date | undefined): string => time?.toISOString().slice(0, 10) ?? '-';
  return [id, day(createdAt), day(expiresAt).padEnd(10), owner, key, reason].join('  ');
}

function lifetimeOf(text: string): number {
  const parsed = lifetime.schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError(`It must be ${lifetime.expects}.`);
}
