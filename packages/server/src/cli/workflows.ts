import { LpsError } from '@large-payload/core';
import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  type WorkflowAdmin,
  type WorkflowDetails,
  type WorkflowState,
  type WorkflowSummary,
  workflowStates,
} from '../durable/workflow-admin.js';
import { addCatalogTarget, withDatabase } from './catalog-target.js';
import { shown, type Terminal } from './terminal.js';

interface ListFlags {
  readonly state?: readonly WorkflowState[];
  readonly limit: number;
  readonly json?: boolean;
}

const usualLimit = 100;

/** `lps workflows …` */
export function addWorkflows(program: Command, terminal: Terminal): void {
  const workflows = program
    .command('workflows')
    .description('Look at the durable work of the services on a database, stop it, and let it go on.');
  addList(workflows, terminal);
  addOne(workflows, terminal, {
    name: 'show',
    summary: 'Show a workflow and its steps.',
    description: 'Show a workflow and the steps it has done. What went in and came out is not shown: it may be secret.',
    act: (admin, id) => admin.show(id),
  });
  addOne(workflows, terminal, {
    name: 'cancel',
    summary: 'Stop a workflow at its next step.',
    description: 'Stop a workflow at its next step, and those that it began. "lps workflows resume" lets it go on.',
    act: (admin, id) => admin.cancel(id),
  });
  addOne(workflows, terminal, {
    name: 'resume',
    summary: 'Let a stopped workflow go on.',
    description: 'Let a workflow go on that was cancelled, or given up after too many attempts, behind its last step.',
    act: (admin, id) => admin.resume(id),
  });
}

function addList(workflows: Command, terminal: Terminal): void {
  const command = workflows
    .command('list')
    .summary('List workflows, the newest first.')
    .description(
      'List workflows, the newest first: state, time of the beginning, version of the code, name, id. "stranded": no ' +
        'replica has code that can go on with it; start one of that version.',
    )
    .addOption(
      new Option('--state <states>', `only those: ${workflowStates.join(', ')}; several with commas`).argParser(
        parseStates,
      ),
    )
    .addOption(
      new Option('--limit <number>', 'stop after so many')
        .argParser(parseLimit)
        .default(usualLimit, String(usualLimit)),
    )
    .option('--json', 'print one JSON object a line');
  addCatalogTarget(command).action(({ state, limit, json }: ListFlags) =>
    onWorkflows(command, terminal, async (admin) => {
      const filter = { ...(state === undefined ? {} : { states: state }), limit };
      for (const workflow of (await admin?.list(filter)) ?? [])
        print(terminal, json ? JSON.stringify(workflow) : lineOf(workflow));
    }),
  );
}

interface Act {
  readonly name: string;
  readonly summary: string;
  readonly description: string;
  act(admin: WorkflowAdmin, id: string): Promise<WorkflowSummary | WorkflowDetails>;
}

function addOne(workflows: Command, terminal: Terminal, { name, summary, description, act }: Act): void {
  const command = workflows
    .command(name)
    .summary(summary)
    .description(description)
    .argument('<id>', 'its id, as "lps workflows list" shows it')
    .option('--json', 'print a JSON object');
  addCatalogTarget(command).action((id: string, { json }: { json?: boolean }) =>
    onWorkflows(command, terminal, async (admin) => {
      if (admin === undefined) throw new LpsError('WORKFLOW_NOT_FOUND', 'there is no such workflow');
      const found = await act(admin, id);
      for (const line of json ? [JSON.stringify(found)] : textOf(found)) print(terminal, line);
    }),
  );
}

function onWorkflows(
  command: Command,
  terminal: Terminal,
  run: (admin: WorkflowAdmin | undefined) => Promise<void>,
): Promise<void> {
  return withDatabase(command, terminal, { create: false }, async (target) => {
    const { withWorkflows } = await import('../durable/workflow-client.js'); // and with it DBOS
    await withWorkflows(target, run);
  });
}

function print(terminal: Terminal, line: string): void {
  terminal.stdout.write(`${shown(line, terminal.stdout)}\n`);
}

/** `running    2026-11-23T07:00:00.000Z  1    clean-up-upload  3f1c…  stranded` */
function lineOf({ state, createdAt, version, name, id, isStranded, error }: WorkflowSummary): string {
  const parts = [state.padEnd(9), createdAt, version.padEnd(3), name, id];
  return [...parts, ...(isStranded ? ['stranded'] : []), ...(error === undefined ? [] : [error])].join('  ');
}

function textOf(workflow: WorkflowSummary | WorkflowDetails): string[] {
  const { id, name, state, version, isStranded, executorId, attempts, createdAt, endedAt, error } = workflow;
  const lines = [
    `id        ${id}`,
    `name      ${name}`,
    `state     ${state}${isStranded ? ` (stranded: no replica of version ${version} is left)` : ''}`,
    `version   ${version}`,
    `replica   ${executorId ?? '-'}`,
    `attempts  ${attempts}`,
    `began     ${createdAt}`,
    `ended     ${endedAt ?? '-'}`,
  ];
  if (error !== undefined) lines.push(`error     ${error}`);
  if (!('steps' in workflow)) return lines;
  for (const step of workflow.steps) {
    lines.push(
      `step      ${[step.endedAt ?? step.startedAt ?? '-', step.name, step.error].filter(Boolean).join('  ')}`,
    );
  }
  return lines;
}

function parseStates(text: string): WorkflowState[] {
  return text.split(',').map((word) => {
    const state = workflowStates.find((known) => known === word);
    if (state === undefined)
      throw new InvalidArgumentError(`It must be one or several of ${workflowStates.join(', ')}.`);
    return state;
  });
}

function parseLimit(text: string): number {
  const limit = Number(text);
  if (/^\d+$/.test(text) && limit >= 1 && limit <= 10_000) return limit;
  throw new InvalidArgumentError('It must be a whole number from 1 to 10000.');
}
