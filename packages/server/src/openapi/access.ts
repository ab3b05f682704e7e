/** Who calls: what `/v3/access` answers. */
import { z } from 'zod';
import { rights } from '../auth/principal.js';
import type { Operation } from './operation.js';
import { time } from './schemas.js';

const grant = z
  .object({
    namespaces: z.array(z.string()).describe('`orders-*` are all that begin so, `*` are all.'),
    rights: z.array(z.enum(rights)),
  })
  .meta({ id: 'Grant', examples: [{ namespaces: ['orders'], rights: ['read', 'write'] }] });

export const accessAnswer = z
  .object({
    subject: z.string().meta({
      description: 'Who the credential stands for; `anonymous` where nobody is asked.',
      examples: ['token:k3v9x2m4'],
    }),
    grants: z.array(grant),
    expiresAt: time.optional().describe('The credential is worth nothing from then on.'),
  })
  .meta({
    id: 'Access',
    examples: [{ subject: 'token:k3v9x2m4', grants: [{ namespaces: ['orders'], rights: ['read'] }] }],
  });

export const showAccess: Operation = {
  id: 'showAccess',
  tag: 'access',
  summary: 'What the caller’s credential allows',
  description: 'Cache nodes ask with the credential of whoever calls them.',
  answers: { 200: { description: 'What it allows at this moment.', body: accessAnswer } },
  errors: [],
};
