import { fileURLToPath } from 'node:url';
import { errorCodes, statusOf } from '@large-payload/core';
import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { formatPayloads, parsePayloads } from '../codec/payloads-json.js';
import { createCodec } from '../codec/pipeline.js';
import { type RunningApp, request, startApp } from '../http/testing.js';
import { statBody } from './blobs.js';
import { payloads } from './codec.js';
import { uploadBody } from './uploads.js';

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
}
interface OperationObject {
  readonly operationId: string;
  readonly summary: string;
  readonly tags: readonly string[];
  readonly parameters: readonly Parameter[];
  readonly responses: Readonly<Record<string, { readonly description: string }>>;
  readonly 'x-right'?: string;
}
interface Document {
  readonly tags: readonly { readonly name: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, OperationObject>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, unknown>> };
}

const path = fileURLToPath(new URL('../../../../docs/openapi.json', import.meta.url));

let app: RunningApp;
let text: string;
let document: Document;
let operations: [string, OperationObject][];
beforeAll(async () => {
  const parts = {
    workflows: {} as never,
    takedowns: {} as never,
    nodes: {} as never,
    catalog: {} as never,
    direct: { downloadLifetimeMs: 1, uploads: {} as never },
  };
  app = await startApp({ ...parts, v1: {}, codec: { codec: createCodec({ drivers: [] }), corsOrigins: [] } });
  const answer = await request(app.port, '/openapi.json');
  expect([answer.status, answer.headers['content-type']]).toEqual([200, 'application/json; charset=utf-8']);
  text = answer.text;
  document = JSON.parse(text);
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, OperationObject] => [
      `${method.toUpperCase()} ${path}`,
      operation,
    ]),
  );
});
afterAll(() => app.close());

describe('docs/openapi.json', () => {
  it('is what the service serves', async () => {
    expect(JSON.parse(printed(document))).toEqual(document);
    await expect(`${printed(document)}\n`).toMatchFileSnapshot(path);
  });
});

describe('the OpenAPI document', () => {
  it('is valid', async () => {
    const validator = new Validator();
    expect(await validator.validate(JSON.parse(text))).toEqual({ valid: true });
    expect(validator.version).toBe('3.1');
  });

  it('has every route of /v3 and of the codec server, and no other', () => {
    const routes = [...app.routes].flatMap(([url, methods]) =>
      [...methods].map((method) => `${method} ${url.replaceAll(/:(\w+)/g, '{$1}')}`),
    );
    const wanted = routes.filter((route) =>
      /^(?!OPTIONS).* (?:\/v3\/|(?:\/\{namespace\})?\/(?:en|de)code$|.*\/download$)/.test(route),
    );
    expect(operations.map(([route]) => route).sort()).toEqual(wanted.sort());
  });

  it('names every operation once, in words, with a tag that is explained', () => {
    const ids = operations.map(([, { operationId }]) => operationId);
    expect(ids.filter((id, index) => ids.indexOf(id) !== index)).toEqual([]);
    const tags = document.tags.map(({ name }) => name);
    for (const [route, { operationId, summary, tags: own }] of operations) {
      expect(operationId, route).toMatch(/^[a-z][a-zA-Z]+$/);
      expect(summary, route).toMatch(/^[A-Z][^.]{9,79}$/);
      expect(tags, route).toEqual(expect.arrayContaining([...own]));
      expect(own, route).toHaveLength(1);
    }
  });

  it('declares every parameter of a path, and none that is not in it', () => {
    for (const [route, { parameters }] of operations) {
      const inPath = [...route.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const declared = parameters.filter((one) => one.in === 'path');
      expect(
        declared.map(({ name }) => name),
        route,
      ).toEqual(inPath);
      expect(
        declared.filter(({ required }) => required !== true),
        route,
      ).toEqual([]);
    }
  });

  it('says what a token must allow, and what refuses the others', () => {
    for (const [route, operation] of operations) {
      expect(operation['x-right'], route).toMatch(
        /^(?:read|write|decode|admin|read everywhere|admin everywhere|any token)$/,
      );
      expect(Object.keys(operation.responses), route).toEqual(
        expect.arrayContaining(
          ['400', '401', '403', '429', '500', '503'].filter(
            (one) => one !== '403' || operation['x-right'] !== 'any token',
          ),
        ),
      );
    }
  });

  it('has statuses that a handler or the table of errors can give', () => {
    const ofErrors = [...errorCodes.map(statusOf), 424].map(String);
    for (const [route, { responses }] of operations) {
      const statuses = Object.keys(responses);
      const good = statuses.filter((status) => Number(status) < 400);
      expect(
        good.some((status) => status.startsWith('2')),
        route,
      ).toBe(true);
      expect(['200', '201', '202', '206', '304', '307'], route).toEqual(expect.arrayContaining(good));
      expect(ofErrors, route).toEqual(expect.arrayContaining(statuses.filter((status) => !good.includes(status))));
    }
  });

  it('refers to nothing that is not there, and has nothing that nobody refers to', () => {
    const refs = new Set([...text.matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, ref = '']) => ref));
    for (const ref of refs) {
      const found = ref.split('/').reduce<unknown>((node, name) => (node as Record<string, unknown>)?.[name], document);
      expect(found, ref).toBeTypeOf('object');
    }
    expect(text.match(/"\$ref":"(?!#\/)/)).toBeNull();
    const named = Object.keys(document.components.schemas).map((name) => `components/schemas/${name}`);
    expect(named.filter((name) => !refs.has(name))).toEqual([]);
  });

  it('has examples that its own schemas take', () => {
    const schemas = JSON.parse(text.replaceAll('#/components/schemas/', '#/$defs/')).components.schemas;
    let checked = 0;
    const walk = (node: unknown): void => {
      if (typeof node !== 'object' || node === null) return;
      const { examples, ...schema } = node as { readonly examples?: unknown };
      if (Array.isArray(examples)) {
        const type = z.fromJSONSchema({ ...schema, $defs: schemas } as Parameters<typeof z.fromJSONSchema>[0]);
        for (const example of examples) {
          expect(type.safeParse(example).error?.message, JSON.stringify(example)).toBeUndefined();
          checked += 1;
        }
      }
      Object.values(node).forEach(walk);
    };
    walk(JSON.parse(text.replaceAll('#/components/schemas/', '#/$defs/')));
    expect(checked).toBeGreaterThan(20);
  });

  it('has examples of bodies that the handlers take', () => {
    const examplesOf = (type: z.ZodType): unknown[] => (z.globalRegistry.get(type)?.examples ?? []) as unknown[];
    for (const body of [statBody, uploadBody]) {
      expect(examplesOf(body)).not.toEqual([]);
      for (const example of examplesOf(body)) body.parse(example);
    }
    for (const example of examplesOf(payloads)) {
      const parsed = parsePayloads(Buffer.from(JSON.stringify(example)));
      expect(JSON.parse([...formatPayloads(parsed)].join(''))).toEqual(example);
    }
  });

  it('is the same whoever asks, and how often', async () => {
    expect((await request(app.port, '/openapi.json')).text).toBe(text);
  });

  it('has only what is registered', async () => {
    const small = await startApp();
    const { paths, tags } = JSON.parse((await request(small.port, '/openapi.json')).text) as Document;
    await small.close();
    expect(Object.keys(paths)).toEqual(expect.arrayContaining(['/v3/blobs']));
    expect(Object.keys(paths).filter((path) => !path.startsWith('/v3/') || path.includes('workflows'))).toEqual([]);
    expect(tags.map(({ name }) => name)).toEqual(['blobs', 'uploads', 'access']);
  });
});

/** As the formatter of this repository wants JSON: lists without objects on one line, where they fit. */
function printed(value: unknown, indent = '', before = 0): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const isList = Array.isArray(value);
  const short = JSON.stringify(value, null, 1)
    .replaceAll(/\n */g, ' ')
    .replaceAll(/\[ | \]/g, (one) => one.trim());
  if (isList && !short.includes('{') && indent.length + before + short.length < 120) return short;
  const inner = `${indent}  `;
  const lines = isList
    ? value.map((one) => `${inner}${printed(one, inner)}`)
    : Object.entries(value).map(([name, one]) => {
        const label = `${JSON.stringify(name)}: `;
        return `${inner}${label}${printed(one, inner, label.length)}`;
      });
  const [open, close] = isList ? '[]' : '{}';
  return lines.length === 0 ? `${open}${close}` : `${open}\n${lines.join(',\n')}\n${indent}${close}`;
}
