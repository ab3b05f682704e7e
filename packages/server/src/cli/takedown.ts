import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isLpsError, LpsError, parseKey } from '@large-payload/core';
import { type Command, CommanderError } from 'commander';
import type { Named, TakedownPlan } from '../takedown/find.js';
import type { Block, MeantBlob } from '../takedown/takedown-catalog.js';
import { addServiceUrl, type ServiceClient, serviceClient } from './service-client.js';
import { escapeControls, roughBytes, shown, type Terminal } from './terminal.js';

interface SelectorFlags {
  readonly namespace?: string;
  readonly key?: string;
  readonly digest?: string;
  readonly prefix?: string;
  readonly uploadedFrom?: string;
  readonly uploadedUntil?: string;
  readonly workflowId?: string;
  readonly runId?: string;
}

interface CreateFlags extends SelectorFlags {
  readonly reason: string;
  readonly id?: string;
  readonly block?: boolean;
  readonly sameDigest?: boolean;
  readonly yes?: boolean;
  readonly wait?: boolean;
  readonly json?: boolean;
}

/** As `GET /v3/takedowns/{id}` answers it. */
interface ShownTakedown {
  readonly id: string;
  readonly selector: Readonly<Record<string, string>>;
  readonly withSameDigest: boolean;
  readonly block: boolean;
  readonly reason: string;
  readonly requestedBy: string;
  readonly requestedAt: string;
  readonly state: 'planning' | 'accepting' | 'accepted' | 'completed' | 'failed';
  readonly acceptedAt?: string;
  readonly completedAt?: string;
  readonly problem?: string;
  readonly objects: number;
  readonly erased: number;
  readonly bytes: number;
}

const waitMs = 1000;
const namedForPeople = 20;

/** `lps takedown …` */
export function addTakedown(program: Command, terminal: Terminal): void {
  const takedown = program
    .command('takedown')
    .description('Erase blobs on request, for good: in the store, in every cache, and with a signed receipt.');
  addPlan(takedown, terminal);
  addCreate(takedown, terminal);
  addStatus(takedown, terminal);
  addList(takedown, terminal);
  addReceipt(takedown, terminal);
  addVerify(takedown, terminal);
  addBlocks(takedown, terminal);
  addUnblock(takedown, terminal);
}

function addSelector(command: Command): Command {
  return command
    .option('--namespace <name>', 'where the blobs are; with --key it is known')
    .option('--key <key>', 'one blob')
    .option('--digest <digest>', 'these bytes, under any key of the namespace')
    .option('--prefix <prefix>', 'keys with this prefix, and below it: customer-42, customer-42/invoices')
    .option('--uploaded-from <time>', 'uploaded at this time or later, as in 2026-11-23T00:00:00Z')
    .option('--uploaded-until <time>', 'uploaded before this time')
    .option('--workflow-id <id>', 'what the runs of this workflow hold; Temporal is asked now')
    .option('--run-id <id>', 'only this run of it');
}

function addPlan(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('plan')
    .summary('Say what would be erased, and what else there is of it.')
    .description(
      'Say what would be erased now: blobs, objects that the catalog does not know, the same bytes under other keys, and who ' +
        'holds them. All options that are given must match. Changes nothing.',
    )
    .option('--json', 'print one JSON object');
  addServiceUrl(addSelector(command))
    .addHelpText('after', '\nExample:\n  lps takedown plan --namespace orders --prefix customer-42')
    .action(async (flags: SelectorFlags & { json?: boolean }) => {
      const service = serviceClient(command, terminal);
      await printPlan(await askPlan(service, flags), flags.json === true, terminal);
    });
}

function addCreate(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('create')
    .summary('Erase blobs. It cannot be undone.')
    .description(
      'Erase blobs, for good. Prints the id of the takedown, which the service then works on until all is erased, also when ' +
        'this command ends. Without --yes it only says what would be erased.',
    )
    .requiredOption('--reason <text>', 'why; stands in the receipt')
    .option('--same-digest', 'also the same bytes under other keys of the namespace; they may be of others')
    .option('--block', 'the same bytes cannot be uploaded again, until "lps takedown unblock"')
    .option('--id <uuid>', 'of your choice: the same request again is the same takedown')
    .option('--yes', 'do it; without it, it is only said what would be erased')
    .option('--wait', 'stay until all is erased, and say how far it is')
    .option('--json', 'print one JSON object');
  addServiceUrl(addSelector(command))
    .addHelpText(
      'after',
      `
Examples:
  lps takedown create --namespace orders --prefix customer-42 --reason "request 4711" --yes --wait
  lps takedown create --key '/blobs/orders/common/sha256:9f86…/sha256:e3b0…' --reason "leaked" --block --yes`,
    )
    .action(async (flags: CreateFlags) => {
      const service = serviceClient(command, terminal);
      if (flags.yes !== true) {
        await printPlan(await askPlan(service, flags), flags.json === true, terminal);
        throw new LpsError('INVALID_ARGUMENT', 'nothing was done; if that is meant to be so, add --yes');
      }
      const { id = randomUUID(), reason, sameDigest = false, block = false } = flags;
      const body = { id, selector: selectorOf(flags), reason, withSameDigest: sameDigest, block };
      const created = await service.ask<ShownTakedown>('POST', '/v3/takedowns', body).catch((error: unknown) => {
        // it may have arrived
        if (isLpsError(error) && error.retryable)
          terminal.stderr.write(`lps: it may be on record; to be sure, run this again with --id ${id}\n`);
        throw error;
      });
      if (!flags.json) terminal.stdout.write(`${created.id}\n`);
      const last = flags.wait === true ? await untilEnded(created, service, terminal) : created;
      if (flags.json) print(JSON.stringify(last), terminal);
      if (last.state === 'failed') throw new LpsError('INVALID_ARGUMENT', `nothing was done: ${last.problem ?? ''}`);
      terminal.stderr.write(
        last.state === 'completed'
          ? `lps: all is erased; "lps takedown receipt ${id}" prints the receipt\n`
          : `lps: it is on record; "lps takedown status ${id}" says how far it is\n`,
      );
    });
}

/** Says what changes; a service that is away for a while is asked again. */
async function untilEnded(created: ShownTakedown, service: ServiceClient, terminal: Terminal): Promise<ShownTakedown> {
  let said = '';
  const say = (words: string): void => {
    if (words !== said) terminal.stderr.write(`lps: ${escapeControls(words)}\n`);
    said = words;
  };
  for (let last = created; ; ) {
    say(progressOf(last));
    if (last.state === 'completed' || last.state === 'failed') return last;
    await delay(waitMs, undefined, { signal: terminal.signal }).catch((cause: unknown) => {
      const message = `stopped; the takedown goes on: lps takedown status ${created.id}`;
      throw new LpsError('ABORTED', message, { cause });
    });
    last = await service.ask<ShownTakedown>('GET', `/v3/takedowns/${created.id}`).catch((error: unknown) => {
      if (!isLpsError(error) || !error.retryable || error.code === 'ABORTED') throw error;
      say(`the service does not answer, it is asked again: ${error.message}`);
      return last;
    });
  }
}

function progressOf({ state, objects, erased, problem }: ShownTakedown): string {
  const words = {
    planning: 'what is meant is being looked for',
    accepting: 'taken down; waiting until no node serves it from a cache',
    accepted: `accepted: reads are answered 410; ${erased} of ${counted(objects, 'object')} erased`,
    completed: `completed: ${counted(objects, 'object')} erased`,
    failed: 'failed',
  };
  return `${words[state]}${problem === undefined ? '' : ` (${problem})`}`;
}

function addStatus(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('status')
    .summary('Say how far a takedown is.')
    .description('Say how far a takedown is, and what it waits for.')
    .argument('<id>', 'its id, as "lps takedown list" shows it')
    .option('--json', 'print one JSON object');
  addServiceUrl(command).action(async (id: string, { json }: { json?: boolean }) => {
    const found = await serviceClient(command, terminal).ask<ShownTakedown>('GET', pathOf(id));
    if (json) return print(JSON.stringify(found), terminal);
    print(`state      ${progressOf(found)}`, terminal);
    print(
      `meant      ${wordsOf(found.selector)}${found.withSameDigest ? ', and the same bytes elsewhere' : ''}`,
      terminal,
    );
    print(`size       ${counted(found.objects, 'object')}, ${roughBytes(found.bytes)}`, terminal);
    print(`blocked    ${found.block ? 'yes: the same bytes cannot be uploaded again' : 'no'}`, terminal);
    print(`asked      ${found.requestedAt} by ${found.requestedBy}: ${found.reason}`, terminal);
    if (found.acceptedAt !== undefined) print(`accepted   ${found.acceptedAt}`, terminal);
    if (found.completedAt !== undefined) print(`completed  ${found.completedAt}`, terminal);
  });
}

function addList(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('list')
    .summary('List takedowns, the newest first.')
    .description('List takedowns, the newest first: id, when, state, what was meant, why.')
    .option('--namespace <name>', 'only those of this namespace; without it of all, which needs the right to all')
    .option('--json', 'print one JSON object a line');
  addServiceUrl(command).action(async ({ namespace, json }: { namespace?: string; json?: boolean }) => {
    const service = serviceClient(command, terminal);
    for (let after: string | null | undefined; after !== null; ) {
      const query = new URLSearchParams({
        ...(namespace === undefined ? {} : { namespace }),
        ...(after === undefined ? {} : { after }),
      });
      const page = await service.ask<{ takedowns: ShownTakedown[]; next: string | null }>(
        'GET',
        `/v3/takedowns?${query}`,
      );
      for (const one of page.takedowns) {
        const { id, requestedAt, state, selector, reason } = one;
        const line = [id, requestedAt.slice(0, 16), state.padEnd(9), wordsOf(selector), reason].join('  ');
        print(json ? JSON.stringify(one) : line, terminal);
      }
      after = page.next;
    }
  });
}

function addReceipt(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('receipt')
    .summary('Print the signed receipt of a takedown that is completed.')
    .description(
      'Print the signed receipt of a takedown that is completed: what was erased, when, and how that was proven.',
    )
    .argument('<id>', 'its id')
    .option('-o, --output <file>', 'write it to a file instead');
  addServiceUrl(command)
    .addHelpText('after', '\nExample:\n  lps takedown receipt 3f0b7c1e-0a51-4a5e-9f77-2f7b7c1e0a51 -o receipt.json')
    .action(async (id: string, { output }: { output?: string }) => {
      const text = await serviceClient(command, terminal).text(`${pathOf(id)}/receipt`);
      if (output === undefined) return void terminal.stdout.write(text);
      await writeFile(resolve(terminal.cwd, output), text, { flag: 'wx' }).catch((error: NodeJS.ErrnoException) => {
        const why = error.code === 'EEXIST' ? 'is there already' : `cannot be written: ${error.code}`;
        throw new LpsError('INVALID_ARGUMENT', `${output} ${why}`);
      });
    });
}

function addVerify(takedown: Command, terminal: Terminal): void {
  takedown
    .command('verify')
    .summary('Check a receipt. Needs no service.')
    .description(
      'Check that a receipt is as it was signed, and say what it says. Needs no service. Without --key the receipt itself says ' +
        'whose key that was: compare the name of the key with the one that you know.',
    )
    .argument('<file>', 'the receipt')
    .option('--key <file>', 'the key that must have signed it, public or private: PEM')
    .option('--json', 'print one JSON object')
    .addHelpText('after', '\nExample:\n  lps takedown verify receipt.json --key takedown-key.pub')
    .action(async (file: string, { key, json }: { key?: string; json?: boolean }) => {
      const { verifyReceipt } = await import('../takedown/receipt.js');
      const [text, trusted] = [
        await readText(file, terminal),
        key === undefined ? undefined : await readText(key, terminal),
      ];
      const verified = await verifyReceipt(text, trusted).catch((error: unknown) => {
        if (!isLpsError(error, 'INVALID_ARGUMENT')) throw error;
        terminal.stderr.write(`lps: not right: ${escapeControls(error.message)}\n`);
        throw new CommanderError(1, 'lps.findings', '');
      });
      if (json) return print(JSON.stringify(verified), terminal);
      const { receipt, keyId } = verified;
      print(`right      signed with ${keyId}${key === undefined ? ', by its own word' : ''}`, terminal);
      print(`takedown   ${receipt.id}: ${wordsOf(receipt.selector)}`, terminal);
      print(`asked      ${receipt.requestedAt} by ${receipt.requestedBy}: ${receipt.reason}`, terminal);
      print(`completed  ${receipt.completedAt}`, terminal);
      const erased = `${counted(receipt.blobs.length, 'blob')}, ${counted(receipt.objects, 'object')}`;
      print(`erased     ${erased}, ${roughBytes(receipt.bytes)}`, terminal);
      for (const { at, what } of receipt.proof) print(`proof      ${at} ${what}`, terminal);
      for (const one of receipt.outOfReach) print(`beyond it  ${one}`, terminal);
    });
}

function addBlocks(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('blocks')
    .summary('List what may not be uploaded again.')
    .description('List what may not be uploaded again: digest, prefix, since when, by which takedown.')
    .requiredOption('--namespace <name>', 'where')
    .option('--json', 'print one JSON object a line');
  addServiceUrl(command).action(async ({ namespace, json }: { namespace: string; json?: boolean }) => {
    const query = new URLSearchParams({ namespace });
    const { blocks } = await serviceClient(command, terminal).ask<{ blocks: Block[] }>('GET', `/v3/blocks?${query}`);
    for (const block of blocks) {
      const { digest, prefix, takedownId, createdAt } = block;
      const under = prefix === undefined ? 'any prefix' : prefix === '' ? 'no prefix' : prefix;
      print(json ? JSON.stringify(block) : [digest, under, createdAt, takedownId].join('  '), terminal);
    }
  });
}

function addUnblock(takedown: Command, terminal: Terminal): void {
  const command = takedown
    .command('unblock')
    .summary('Let bytes be uploaded again.')
    .description('Let bytes be uploaded again that a takedown has blocked. What was erased stays erased.')
    .requiredOption('--namespace <name>', 'where they are blocked')
    .requiredOption('--digest <digest>', 'which bytes')
    .option('--prefix <prefix>', 'only under this prefix; empty: under none. Without it: wherever they are blocked');
  addServiceUrl(command).action(async (flags: { namespace: string; digest: string; prefix?: string }) => {
    const query = new URLSearchParams(
      Object.entries(flags).filter(([name]) => ['namespace', 'digest', 'prefix'].includes(name)),
    );
    const { removed } = await serviceClient(command, terminal).ask<{ removed: number }>(
      'DELETE',
      `/v3/blocks?${query}`,
    );
    if (removed === 0)
      throw new LpsError('INVALID_ARGUMENT', 'nothing blocks these bytes there; see "lps takedown blocks"');
    terminal.stderr.write(`lps: ${counted(removed, 'block')} ended\n`);
  });
}

function askPlan(service: ServiceClient, flags: SelectorFlags): Promise<TakedownPlan> {
  return service.ask('POST', '/v3/takedowns/plan', { selector: selectorOf(flags) });
}

/** Parsing is the service's; only what a key says of its namespace is known here. */
function selectorOf(flags: SelectorFlags): Record<string, string> {
  const { key, digest, prefix, uploadedFrom, uploadedUntil, workflowId, runId } = flags;
  const { namespace = key === undefined ? undefined : parseKey(key).namespace } = flags;
  if (namespace === undefined) throw new LpsError('INVALID_ARGUMENT', 'say where: --namespace');
  const parts = { namespace, key, digest, prefix, uploadedFrom, uploadedUntil, workflowId, runId };
  return Object.fromEntries(Object.entries(parts).filter((part): part is [string, string] => part[1] !== undefined));
}

async function printPlan(plan: TakedownPlan, isJson: boolean, terminal: Terminal): Promise<void> {
  if (isJson) return print(JSON.stringify(plan), terminal);
  const { blobs, objects, copies, holders, runs = [] } = plan;
  const states = Object.entries(blobs.states).map(([state, count]) => `${count} ${state}`);
  print(`would be erased     ${sumOf(blobs, 'blob')}${states.length === 0 ? '' : ` (${states.join(', ')})`}`, terminal);
  printNamed(blobs, ({ key, size, state }: MeantBlob) => `${key}  ${roughBytes(size)}  ${state}`, terminal);
  print(`not in the catalog  ${sumOf(objects, 'object')}, erased as well`, terminal);
  printNamed(objects, ({ physicalKey, size }) => `${physicalKey}  ${roughBytes(size)}`, terminal);
  print(
    `elsewhere           ${sumOf(copies, 'blob')} of the same bytes under other keys, erased only with --same-digest`,
    terminal,
  );
  printNamed(copies, ({ key, size, state }: MeantBlob) => `${key}  ${roughBytes(size)}  ${state}`, terminal);
  for (const run of runs) print(`read in Temporal    run ${run}`, terminal);
  for (const { kind, holder, cluster, namespace, isGone } of holders.slice(0, namedForPeople))
    print(`held by             ${kind} ${holder} of ${cluster}/${namespace}${isGone ? ', gone' : ''}`, terminal);
  if (holders.length > namedForPeople)
    print(`                    and ${holders.length - namedForPeople} more (--json)`, terminal);
}

function printNamed<Item>({ first, count }: Named<Item>, line: (item: Item) => string, terminal: Terminal): void {
  for (const item of first.slice(0, namedForPeople)) print(`  ${line(item)}`, terminal);
  if (count > namedForPeople) print(`  and ${count - namedForPeople} more (--json names 1,000)`, terminal);
}

function sumOf({ count, bytes }: { readonly count: number; readonly bytes: number }, what: string): string {
  return `${counted(count, what)}, ${roughBytes(bytes)}`;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** `namespace orders, prefix customer-42` */
function wordsOf(selector: Readonly<Record<string, string>>): string {
  return Object.entries(selector)
    .filter(([name]) => name !== 'namespace' || selector.key === undefined) // a key says it
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}

function pathOf(id: string): string {
  return `/v3/takedowns/${encodeURIComponent(id)}`;
}

function print(line: string, { stdout }: Terminal): void {
  stdout.write(`${shown(line, stdout)}\n`);
}

async function readText(path: string, { cwd }: Terminal): Promise<string> {
  return readFile(resolve(cwd, path), 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new LpsError('INVALID_ARGUMENT', `${path} cannot be read: ${error.code}`);
  });
}
