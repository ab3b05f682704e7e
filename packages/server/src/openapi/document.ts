/** The OpenAPI document: what the registered routes say of themselves, and what holds for all of them. */
import type { ErrorCode } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { type Content, type DescribedRoute, errorStatus, errorsOf, type OperationAnswer, tags } from './operation.js';
import { type HeaderName, headers, problem } from './schemas.js';

type Json = Readonly<Record<string, unknown>>;

/** Of the API; `GET /version` has the service's. */
const apiVersion = '3';

const description = `Large payloads by content-addressed keys: \`/v3\`, and the codec server for Temporal's Web UI and CLI.
The Go service's own API, \`/v1\` and \`/v2\`, is not described here.

Every operation names in \`x-right\` what the token must allow: a right on each namespace that the request names,
\`admin everywhere\` on all of them, or \`any token\`. A service that runs with \`--auth none\` asks nobody for one.

Errors are problem documents (RFC 9457) with a stable \`code\`; the codec server answers one line of text, unless the caller
accepts JSON. Preflights of browsers (\`OPTIONS\`) are answered on its routes, and are not listed.`;

/** The routes with an operation that are registered from now on. */
export function describedRoutes(app: FastifyInstance): readonly DescribedRoute[] {
  const routes: DescribedRoute[] = [];
  app.addHook('onRoute', ({ method, url, config }) => {
    const { access, operation } = config ?? {};
    if (access === undefined || operation === undefined) return;
    for (const one of [method].flat()) routes.push({ method: one, url, access, operation });
  });
  return routes;
}

/** An OpenAPI 3.1 document; takes some milliseconds. */
export function openapiDocument(routes: readonly DescribedRoute[]): Json {
  const { schemaOf, named } = convert(schemasOf(routes));
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    const path = route.url.replaceAll(/:(\w+)/g, '{$1}');
    const { [path]: methods = {} } = paths;
    paths[path] = { ...methods, [route.method.toLowerCase()]: operationOf(route, schemaOf) };
  }
  const used = new Set(routes.map(({ operation }) => operation.tag));
  return {
    openapi: '3.1.0',
    info: {
      title: 'Large Payload Service',
      version: apiVersion,
      description,
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: './', description: 'The service that this document comes from.' }],
    security: [{ bearer: [] }],
    tags: Object.entries(tags)
      .filter(([name]) => (used as Set<string>).has(name))
      .map(([name, description]) => ({ name, description })),
    paths,
    components: {
      schemas: named,
      headers: Object.fromEntries(Object.entries(headers).map(([name, type]) => [name, headerOf(schemaOf(type))])),
      parameters: { Namespace: namespaceHeader },
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'A token of `lps token create`, or a JWT.' },
      },
    },
  };
}

const namespaceHeader: Json = {
  name: 'X-Namespace',
  in: 'header',
  description: 'The namespace that the request is about. Path, query and body must name no other one.',
  schema: { type: 'string', examples: ['orders'] },
};

function operationOf(route: DescribedRoute, schemaOf: (type: z.ZodType) => Json): Json {
  const { operation, access } = route;
  const { id, tag, summary, description, path, query, headers, body, answers } = operation;
  const of = (type: z.ZodObject | undefined, place: string): Json[] =>
    type === undefined ? [] : parametersOf(schemaOf(type), place);
  const right =
    typeof access === 'string'
      ? 'any token'
      : access.over === 'everywhere'
        ? `${access.right} everywhere`
        : access.right;
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description === undefined ? {} : { description }),
    ...(access === 'public' ? { security: [] } : { 'x-right': right }),
    parameters: [
      ...of(path, 'path'),
      ...of(query, 'query'),
      ...of(headers, 'header'),
      ...(access === 'public' ? [] : [{ $ref: '#/components/parameters/Namespace' }]),
    ],
    ...(body === undefined ? {} : { requestBody: { required: true, content: contentOf(body, schemaOf) } }),
    responses: {
      ...Object.fromEntries(Object.entries(answers).map(([status, answer]) => [status, answerOf(answer, schemaOf)])),
      ...errorAnswers(route, schemaOf(problem)),
    },
  };
}

/** A schema of an object, as parameters of its names. */
function parametersOf(schema: Json, place: string): Json[] {
  const { properties, required = [] } = schema as {
    readonly properties: Readonly<Record<string, Json>>;
    readonly required?: readonly string[];
  };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: place,
    ...(description === undefined ? {} : { description }),
    ...(required.includes(name) ? { required: true } : {}),
    // `state=running,queued`
    ...(schema.type === 'array' ? { style: 'form', explode: false } : {}),
    schema,
  }));
}

function contentOf(content: Content, schemaOf: (type: z.ZodType) => Json): Json {
  return content === 'octets'
    ? { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } }
    : { 'application/json': { schema: schemaOf(content) } };
}

function answerOf({ description, body, headers = [] }: OperationAnswer, schemaOf: (type: z.ZodType) => Json): Json {
  return {
    description,
    headers: headerRefs([...headers, 'X-Request-Id']),
    ...(body === undefined ? {} : { content: contentOf(body, schemaOf) }),
  };
}

function errorAnswers(route: DescribedRoute, problem: Json): Record<string, Json> {
  const { method, operation } = route;
  const codes = errorsOf(route);
  const statuses = new Set(codes.map((code) => errorStatus(operation, code)));
  const json = { 'application/problem+json': { schema: problem } };
  const text = { 'text/plain': { schema: { type: 'string', description: 'One line.' } } };
  const content = method === 'HEAD' ? {} : { content: operation.tag === 'codec' ? { ...text, ...json } : json };
  return Object.fromEntries(
    [...statuses].map((status) => [
      status,
      answerWith(
        codes.filter((code) => errorStatus(operation, code) === status),
        status,
      ),
    ]),
  );

  function answerWith(some: readonly ErrorCode[], status: number): Json {
    const description = some.map((code) => `\`${code}\``).join(', ');
    return { description, headers: headerRefs(errorHeaders(status, some)), ...content };
  }
}

function errorHeaders(status: number, codes: readonly ErrorCode[]): HeaderName[] {
  return [
    ...(status === 429 || status === 503 ? (['Retry-After'] as const) : []),
    ...(codes.includes('UNAUTHENTICATED') ? (['WWW-Authenticate'] as const) : []),
    ...(codes.includes('RANGE_NOT_SATISFIABLE') ? (['Content-Range'] as const) : []),
    'X-Request-Id',
  ];
}

function headerRefs(names: readonly HeaderName[]): Json {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
}

function headerOf({ description, ...schema }: Json): Json {
  return { ...(description === undefined ? {} : { description }), schema };
}

function schemasOf(routes: readonly DescribedRoute[]): Set<z.ZodType> {
  const contents = routes.flatMap(({ operation: { path, query, headers, body, answers } }) => [
    ...[path, query, headers, body],
    ...Object.values(answers).map((answer) => answer.body),
  ]);
  const types = contents.filter((one) => one !== undefined && one !== 'octets');
  return new Set([problem, ...Object.values(headers), ...types]);
}

interface Converted {
  readonly schemaOf: (type: z.ZodType) => Json;
  /** Those with an `id`, which the others refer to. */
  readonly named: Readonly<Record<string, Json>>;
}

/** All at once, so that what is used in several of them has one name. As they are written, not as transforms make them. */
function convert(types: ReadonlySet<z.ZodType>): Converted {
  const list = [...types];
  const all = z.toJSONSchema(z.object(Object.fromEntries(list.map((type, index) => [index, type]))), {
    io: 'input',
    override: ({ zodSchema, jsonSchema }) => {
      // the expressions of zod for these are long, or no format that anyone knows
      if (jsonSchema.format === 'date-time' || jsonSchema.contentEncoding === 'base64') delete jsonSchema.pattern;
      if (jsonSchema.format === 'starts_with') delete jsonSchema.format;
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      // zod drops these where something is converted; ours are of what is sent
      const { examples } = z.globalRegistry.get(zodSchema) ?? {};
      if (Array.isArray(examples)) jsonSchema.examples = examples;
      const { def } = zodSchema._zod;
      if (def.type === 'default') jsonSchema.default = def.defaultValue;
    },
  });
  const text = JSON.stringify(all).replaceAll('"#/$defs/', '"#/components/schemas/');
  const { properties, $defs = {} } = JSON.parse(text) as {
    readonly properties: Readonly<Record<string, Json>>;
    readonly $defs?: Readonly<Record<string, Json>>;
  };
  const schemaOf = (type: z.ZodType): Json => properties[list.indexOf(type)] ?? {};
  return { schemaOf, named: $defs };
}
