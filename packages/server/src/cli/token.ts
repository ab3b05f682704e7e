import { LpsError } from '@large-payload/core';
import { type Command, InvalidArgumentError } from 'commander';
import type { OpenAccess } from '../auth/open-access.js';
import { isRight, parseNamespacePattern } from '../auth/policy-grant.js';
import { type Right, rights } from '../auth/principal.js';
import type { TokenInfo } from '../auth/token-records.js';
import { duration } from '../config/kinds.js';
import { addCatalogTarget, type CatalogTargetOptions, withDatabase } from './catalog-target.js';
import { escapeControls, shown, type Terminal } from './terminal.js';
import { userName } from './user-name.js';

interface CreateFlags {
  readonly name: string;
  readonly namespace: readonly string[];
  readonly right: readonly Right[];
  readonly expires?: number;
  readonly json?: boolean;
}

const minuteMs = 60_000;
const lifetime = duration(minuteMs, 3650 * 24 * 60 * minuteMs, '90d');

const rightsHelp = `
Rights (none includes another):
  read     blobs, by key, and lists of them        write    blobs, and /encode
  decode   the codec server, for people            admin    workflows, takedowns, the collection`;

/** `lps token …` */
export function addToken(program: Command, terminal: Terminal): void {
  const token = program
    .command('token')
    .description('Make the tokens that callers of the service show, list them, and revoke them.');
  addCreate(token, terminal);
  addList(token, terminal);
  addRevoke(token, terminal);
}

function addCreate(token: Command, terminal: Terminal): void {
  const command = token
    .command('create')
    .summary('Make a token.')
    .description(
      'Make a token with some rights on some namespaces, and print it on standard output: this once, because only a ' +
        'hash of it is kept. Callers send it as "Authorization: Bearer <token>".',
    )
    .requiredOption('--name <text>', 'what it is for; people see it')
    .requiredOption(
      '--namespace <name>',
      'may be given again; "orders-*" are all that begin so, "*" are all',
      namespaces,
    )
    .requiredOption('--right <right>', `may be given again: ${rights.join(', ')}`, rightsOf)
    .option('--expires <time>', 'how long it is good for, such as 90d; without it until it is revoked', lifetimeOf)
    .option('--json', 'print a JSON object');
  addCatalogTarget(command)
    .addHelpText('after', rightsHelp)
    .addHelpText(
      'after',
      `
Examples:
  lps token create --name "orders workers" --namespace orders --right read --right write
  lps token create --name console --namespace "*" --right read --right decode --expires 90d > token.txt`,
    )
    .action(({ name, namespace, right, expires, json }: CreateFlags) =>
      onTokens(command, terminal, { create: true }, async (access) => {
        const { text, ...made } = await access.tokens.create({
          name,
          grants: [{ namespaces: namespace, rights: right }],
          ...(expires === undefined ? {} : { expiresAt: new Date(Date.now() + expires) }),
        });
        await record(access, 'create token', made);
        terminal.stdout.write(`${json ? JSON.stringify({ token: text, ...fieldsOf(made) }) : text}\n`);
        const until =
          made.expiresAt === undefined ? 'is good until it is revoked' : `expires ${made.expiresAt.toISOString()}`;
        terminal.stderr.write(`lps: token ${made.id} ${until}. Keep it now: it is not shown again.\n`);
      }),
    );
}

function addList(token: Command, terminal: Terminal): void {
  const command = token
    .command('list')
    .summary('List tokens, the newest first.')
    .description(
      'List tokens, the newest first: id, state, day of the last use, end, rights, namespaces, name. The tokens themselves ' +
        'are not kept.',
    )
    .option('--json', 'print one JSON object a line');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps token list --json | jq \'select(.state == "active") | .name\'')
    .action(({ json }: { json?: boolean }) =>
      onTokens(command, terminal, { create: false }, async ({ tokens }) => {
        for (const info of await tokens.list()) {
          const line = json ? JSON.stringify(fieldsOf(info)) : lineOf(info);
          terminal.stdout.write(`${shown(line, terminal.stdout)}\n`);
        }
      }),
    );
}

function addRevoke(token: Command, terminal: Terminal): void {
  const command = token
    .command('revoke')
    .summary('Revoke a token.')
    .description(
      'Revoke a token for good. Services refuse it within 10 seconds; one that does not reach Postgres may take it for ' +
        'up to an hour.',
    )
    .argument('<id>', 'its id, as "lps token list" shows it');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps token revoke k3v9x2m4abcd')
    .action((given: string) =>
      onTokens(command, terminal, { create: false }, async (access) => {
        // whoever has the token at hand may give that
        const id = /^lps_([a-z2-7]{12})_/.exec(given)?.[1] ?? given;
        const revoked = await access.tokens.revoke(id);
        if (revoked === undefined) {
          throw new LpsError('INVALID_ARGUMENT', 'there is no such token; "lps token list" shows those that there are');
        }
        await record(access, 'revoke token', revoked);
        terminal.stderr.write(`lps: token ${id} (${escapeControls(revoked.name)}) is revoked\n`);
      }),
    );
}

function onTokens(
  command: Command,
  terminal: Terminal,
  options: CatalogTargetOptions,
  run: (access: OpenAccess) => Promise<void>,
): Promise<void> {
  return withDatabase(command, terminal, options, async ({ url, schema }) => {
    const { openAccess } = await import('../auth/open-access.js'); // and with it what talks to Postgres
    const access = await openAccess({
      url,
      schema,
      onAuditLost: () => terminal.stderr.write('lps: this was done, but is missing in the audit\n'),
    });
    try {
      await run(access);
    } finally {
      await access.close();
    }
  });
}

function record(access: OpenAccess, action: string, { id, grants }: TokenInfo): Promise<void> {
  const namespaces = grants.flatMap((grant) => grant.namespaces);
  return access.audit.record({ principal: `cli:${userName()}`, action, namespaces, subjects: [id], status: 200 });
}

function stateOf({ revokedAt, expiresAt }: TokenInfo): 'active' | 'expired' | 'revoked' {
  if (revokedAt !== undefined) return 'revoked';
  return expiresAt !== undefined && expiresAt.getTime() <= Date.now() ? 'expired' : 'active';
}

function fieldsOf(info: TokenInfo): object {
  const { id, name, grants, createdAt, expiresAt, revokedAt, lastUsedOn } = info;
  return { id, name, state: stateOf(info), grants, createdAt, expiresAt, revokedAt, lastUsedOn };
}

/** `k3v9x2m4abcd  active   2026-11-23  2027-02-21  read,write  orders  orders workers` */
function lineOf(info: TokenInfo): string {
  const { id, name, grants, expiresAt, lastUsedOn } = info;
  const end = expiresAt?.toISOString().slice(0, 10) ?? '-';
  const all = (of: (grant: TokenInfo['grants'][number]) => readonly string[]): string =>
    grants.map((grant) => of(grant).join(',')).join(' + ');
  return [
    id,
    stateOf(info).padEnd(7),
    (lastUsedOn ?? '-').padEnd(10),
    end.padEnd(10),
    all((grant) => grant.rights),
    all((grant) => grant.namespaces),
    name,
  ].join('  ');
}

function namespaces(text: string, before: readonly string[] = []): string[] {
  try {
    return [...before, parseNamespacePattern(text)];
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? `${error.message}.` : '');
  }
}

function rightsOf(text: string, before: readonly Right[] = []): Right[] {
  if (!isRight(text)) throw new InvalidArgumentError(`It must be one of ${rights.join(', ')}.`);
  return [...before, text];
}

function lifetimeOf(text: string): number {
  const parsed = lifetime.schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError(`It must be ${lifetime.expects}.`);
}
