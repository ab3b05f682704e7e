/** Durable workflows: what `/v3/workflows` takes and answers. */
import { z } from 'zod';
import { workflowStates } from '../durable/workflow-admin.js';
import type { Operation } from './operation.js';
import { time, wholeNumber } from './schemas.js';

const maxPerPage = 1000;
const usualPage = 100;
const maxOffset = 1_000_000;

const state = z.enum(workflowStates, `state must be one or several of ${workflowStates.join(', ')}`);
const words = (text: unknown): unknown => (typeof text === 'string' ? text.split(',') : text);

export const workflowsQuery = z.object({
  state: z
    .preprocess(words, z.array(state))
    .optional()
    .meta({ description: 'Only those in one of these states.', examples: [['running', 'given-up']] }),
  limit: wholeNumber(1, maxPerPage, `limit must be a number from 1 to ${maxPerPage}`)
    .default(usualPage)
    .meta({ description: 'Workflows on a page.' }),
  offset: wholeNumber(0, maxOffset, `offset must be a number from 0 to ${maxOffset}`)
    .default(0)
    .meta({ description: 'How many of the newest to leave out. The `next` of the page before.' }),
});

const workflow = z
  .object({
    id: z.string(),
    name: z.string(),
    state,
    version: z.string().describe('Of its code.'),
    isStranded: z.boolean().describe('Unfinished, and no replica has code that can go on with it.'),
    executorId: z.string().optional().describe('Where it runs, or ran last.'),
    attempts: z.int().min(0),
    createdAt: time,
    updatedAt: time.optional(),
    endedAt: time.optional(),
    error: z.string().optional().describe('One line.'),
  })
  .meta({ id: 'Workflow' });
const step = z.object({
  name: z.string(),
  startedAt: time.optional(),
  endedAt: time.optional(),
  error: z.string().optional().describe('One line.'),
});
const workflowDetails = workflow.extend({ steps: z.array(step) }).meta({ id: 'WorkflowDetails' });
const workflowPage = z
  .object({
    workflows: z.array(workflow),
    next: z.int().nullable().describe('`offset` of the next page; null on the last one.'),
  })
  .meta({ id: 'WorkflowPage' });

const path = z.object({ id: z.string().describe('The workflow’s.') });

export const listWorkflows: Operation = {
  id: 'listWorkflows',
  tag: 'workflows',
  summary: 'List workflows, the newest first',
  query: workflowsQuery,
  answers: { 200: { description: 'A page of them.', body: workflowPage } },
  errors: [],
};

export const showWorkflow: Operation = {
  id: 'showWorkflow',
  tag: 'workflows',
  summary: 'Show a workflow and its steps',
  description: 'Never what went in or came out: that may hold signed URLs.',
  path,
  answers: { 200: { description: 'The workflow.', body: workflowDetails } },
  errors: ['WORKFLOW_NOT_FOUND'],
};

export const cancelWorkflow: Operation = {
  id: 'cancelWorkflow',
  tag: 'workflows',
  summary: 'End a workflow at its next step, and those that it began',
  path,
  answers: { 200: { description: 'The workflow, cancelled.', body: workflow } },
  errors: ['WORKFLOW_NOT_FOUND'],
};

export const resumeWorkflow: Operation = {
  id: 'resumeWorkflow',
  tag: 'workflows',
  summary: 'Let a workflow go on that was cancelled or given up',
  path,
  answers: { 200: { description: 'The workflow, behind its last finished step.', body: workflow } },
  errors: ['WORKFLOW_NOT_FOUND'],
};
