import { parseKey } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { getQuery, listQuery } from '../openapi/blobs.js';
import { exampleKey } from '../openapi/schemas.js';
import { workflowsQuery } from '../openapi/workflows.js';
import { bodyOf, queryOf } from './query.js';

const ask = (query: string) => ({ raw: { url: `/v3${query}` } });
const key = encodeURIComponent(exampleKey);

describe('queryOf', () => {
  it('gives what the schema names, converted, and leaves the rest out', () => {
    expect(queryOf(ask(`?key=${key}&redirect=8&more=1&__proto__=x`), getQuery)).toEqual({
      key: exampleKey,
      redirect: 8,
    });
    expect(queryOf(ask('?state=running,given-up&limit=7'), workflowsQuery)).toEqual({
      ...{ state: ['running', 'given-up'], limit: 7, offset: 0 },
    });
    expect(queryOf(ask('?prefix=/blobs/a+b/'), listQuery)).toEqual({
      prefix: { text: '/blobs/a b/', namespaces: ['a b'] },
      limit: 1000,
    });
    expect(queryOf(ask(''), listQuery)).toMatchObject({ prefix: { namespaces: 'everywhere' } });
  });

  it.each([
    ['', getQuery, 'key query parameter is required'],
    ['?key=', getQuery, 'key query parameter is required'],
    [`?key=${key}&redirect=0`, getQuery, 'redirect must be the least size in bytes, from 1'],
    [`?key=${key}&redirect=1e3`, getQuery, 'redirect must be the least size in bytes, from 1'],
    [`?key=${key}&redirect=`, getQuery, 'redirect must be the least size in bytes, from 1'],
    [`?key=${key}&redirect=9999999999999999`, getQuery, 'redirect must be the least size in bytes, from 1'],
    ['?prefix=/blob', listQuery, 'prefix must begin with /blobs/'],
    ['?limit=1.5', listQuery, 'limit must be a number from 1 to 1000'],
    ['?limit=+5', listQuery, 'limit must be a number from 1 to 1000'],
    ['?limit=1001', listQuery, 'limit must be a number from 1 to 1000'],
    ['?limit=1&limit=2', listQuery, 'the query names "limit" twice'],
    ['?limit=%ff', listQuery, 'the query is not valid percent-encoded UTF-8'],
    ['?state=', workflowsQuery, /^state must be one or several of running, queued/],
    ['?state=running,asleep', workflowsQuery, /^state must be one or several of running, queued/],
    ['?offset=-1', workflowsQuery, 'offset must be a number from 0 to 1000000'],
  ])('refuses %j in words', (query, schema: z.ZodType, message) => {
    expect(() => queryOf(ask(query), schema)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: typeof message === 'string' ? message : expect.stringMatching(message),
      }),
    );
  });

  it('lets through what a parser throws', () => {
    for (const query of ['?after=x', '?prefix=/blobs/../'])
      expect(() => queryOf(ask(query), listQuery)).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });
});

describe('bodyOf', () => {
  const schema = z.object({ key: z.string().transform((text) => parseKey(text)) });

  it('refuses in the words of its caller, and lets through what a parser throws', () => {
    expect(bodyOf({ body: { key: exampleKey } }, schema, 'no').key.namespace).toBe('orders');
    const refusal = (body: unknown) => expect(() => bodyOf({ body }, schema, 'no'));
    for (const body of [undefined, null, 'x', [], {}, { key: 1 }])
      refusal(body).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', message: 'no' }));
    refusal({ key: 'x' }).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });
});
