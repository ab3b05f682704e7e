/**
 * The clusters file: which Temporal clusters are asked who holds what.
 *
 *   clusters:
 *     - name: production
 *       address: temporal.example.com:7233
 *       tls: { ca: ca.pem, cert: client.pem, key: client.key, server-name: temporal }   # or true, or false
 *       api-key-file: production.key
 *       namespaces: [payments, orders]        # or all
 *       blob-namespaces: [payments]           # default: those of the same names
 *       isolated-namespaces: false            # true: nothing starts, signals or calls across namespaces
 *       requests-per-second: 50
 *       request-timeout-seconds: 30           # for one answer; a call that may succeed later is repeated for four times that
 *       claim-free-encodings: [binary/custom] # encodings that are not read here, and never hold a claim
 *       accept-server-versions: ["1.33"]
 *       ui-address: https://temporal.example.com   # of its Web UI, for links
 *
 * Secrets stand in files of their own. Paths are relative to the clusters file.
 */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isLpsError, parseNamespace } from '@large-payload/core';
import { z } from 'zod';
import { isLoopback } from '../config/checks.js';
import { configInvalid } from '../config/load.js';
import { parseStructured, readStructured } from '../config/structured-file.js';

export interface ClusterTls {
  /** PEM; absent: the authorities that Node trusts. */
  readonly ca?: Buffer;
  /** The client's certificate and key, PEM. */
  readonly client?: { readonly cert: Buffer; readonly key: Buffer };
  /** The name that the server's certificate is for; absent: that of the address. */
  readonly serverName?: string;
}

export interface ClusterSettings {
  readonly name: string;
  /** `host:port` */
  readonly address: string;
  /** Absent: a connection that is not encrypted. */
  readonly tls?: ClusterTls;
  /** Read again for every mark: keys expire and are replaced. */
  readonly apiKeyFile?: string;
  readonly namespaces: 'all' | readonly string[];
  /** Absent: those of the same names. */
  readonly blobNamespaces?: readonly string[];
  readonly isIsolated: boolean;
  readonly requestsPerSecond: number;
  /** Absent: 30 s. */
  readonly requestTimeoutMs?: number;
  readonly claimFreeEncodings: readonly string[];
  /** `1.33`: taken for known, besides those that are. */
  readonly acceptServerVersions: readonly string[];
  /** Of its Web UI, without a slash at the end; absent: no links are shown. */
  readonly uiAddress?: string;
}

const maxClusters = 100;
const maxNames = 10_000;
const defaultPort = 7233;

/** Reads the file, and those that it names. Throws CONFIG_INVALID with every problem in them. */
export async function readClusters(path: string): Promise<readonly ClusterSettings[]> {
  const parsed = parseClusters(path, await readStructured('clusters', path));
  const files = new NamedFiles(path);
  const clusters = await Promise.all(parsed.map((one, index) => settingsOf(one, `clusters.${index}`, files)));
  if (files.problems.length > 0) throw configInvalid(files.problems);
  return clusters;
}

/** The key of a cluster, as it is in its file now. Throws CONFIG_INVALID. */
export async function readApiKey(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw configInvalid([`${path} cannot be read: ${error.code ?? error.message}`]);
  });
  const key = text.trim();
  // what a header cannot carry is most likely another file
  if (!/^[\x21-\x7e]+$/.test(key)) throw configInvalid([`${path} must hold an API key on one line, and nothing else`]);
  return key;
}

type ParsedCluster = z.infer<typeof clusterSchema>;

function parseClusters(name: string, content: string): readonly ParsedCluster[] {
  return parseStructured(name, content, fileSchema).clusters;
}

const names = (one: z.ZodType<string>) =>
  z
    .array(one)
    .min(1)
    .max(maxNames)
    .refine((all) => new Set(all).size === all.length, 'names the same one twice');

const filePath = z.string().min(1).max(4096);

const blobNamespace = z.string().transform((value, context) => {
  try {
    return parseNamespace(value);
  } catch (error) {
    context.addIssue({ code: 'custom', message: isLpsError(error) ? error.message : 'is no namespace' });
    return z.NEVER;
  }
});

const tlsSchema = z
  .strictObject({
    ca: filePath.optional(),
    cert: filePath.optional(),
    key: filePath.optional(),
    'server-name': z.string().min(1).max(253).optional(),
  })
  .refine(({ cert, key }) => (cert === undefined) === (key === undefined), '"cert" and "key" go together');

const clusterSchema = z
  .strictObject({
    name: z
      .string()
      .max(100)
      .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/, 'must be letters, digits, ".", "_" and "-"'),
    address: z.string().max(300).refine(isAddress, 'must be host:port, without a scheme'),
    tls: z.union([z.boolean(), tlsSchema], 'must be true, false, or files: ca, cert, key, server-name').optional(),
    'api-key-file': filePath.optional(),
    namespaces: z.union([z.literal('all'), names(z.string().min(1).max(1000))], 'must be all, or a list of names'),
    'blob-namespaces': names(blobNamespace as unknown as z.ZodType<string>).optional(),
    'isolated-namespaces': z.boolean().default(false),
    'requests-per-second': z.number().min(1).max(10_000).default(50),
    'request-timeout-seconds': z.number().min(0.1).max(600).optional(),
    'claim-free-encodings': names(z.string().min(1).max(200)).default([]),
    'accept-server-versions': names(
      z.string('must be a text, in quotes: 1.30 as a number is 1.3').regex(/^\d+\.\d+$/, 'must be as "1.33"'),
    ).default([]),
    'ui-address': z
      .url({ protocol: /^https?$/, error: 'must be a URL, such as https://temporal.example.com' })
      .max(1000)
      .transform((url) => url.replace(/\/+$/, ''))
      .optional(),
  })
  .superRefine((cluster, context) => {
    if (cluster['api-key-file'] === undefined || cluster.tls !== false || isLoopback(hostOf(cluster.address))) return;
    const message = 'an API key is sent over TLS only, unless the address is one of this machine';
    context.addIssue({ code: 'custom', message, path: ['tls'] });
  });

const fileSchema = z.strictObject({
  clusters: z
    .array(clusterSchema)
    .min(1)
    .max(maxClusters)
    .superRefine((clusters, context) => {
      const seen = new Set<string>();
      for (const [index, { name }] of clusters.entries()) {
        if (seen.has(name)) context.addIssue({ code: 'custom', message: 'is taken already', path: [index, 'name'] });
        seen.add(name);
      }
    }),
});

/** Files that the clusters file names; what is wrong with them is gathered. */
class NamedFiles {
  readonly problems: string[] = [];
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  pathOf(path: string): string {
    return resolve(dirname(this.#file), path);
  }

  async read(where: string, path: string): Promise<Buffer> {
    const content = await readFile(this.pathOf(path)).catch((error: NodeJS.ErrnoException) => {
      this.#problem(where, `${path} cannot be read: ${error.code ?? error.message}`);
      return undefined;
    });
    if (content !== undefined && !content.includes('-----BEGIN ')) this.#problem(where, `${path} is not PEM`);
    return content ?? Buffer.alloc(0);
  }

  async apiKey(where: string, path: string): Promise<string> {
    await readApiKey(this.pathOf(path)).catch((error: unknown) =>
      this.#problem(where, error instanceof Error ? error.message : ''),
    );
    return this.pathOf(path);
  }

  #problem(where: string, message: string): void {
    this.problems.push(`${this.#file}: ${where}: ${message}`);
  }
}

async function settingsOf(parsed: ParsedCluster, where: string, files: NamedFiles): Promise<ClusterSettings> {
  const { 'api-key-file': keyFile, 'blob-namespaces': blobNamespaces, 'request-timeout-seconds': timeout } = parsed;
  const { 'ui-address': uiAddress } = parsed;
  // a key alone asks for TLS
  const tls = await tlsOf(parsed.tls ?? keyFile !== undefined, `${where}.tls`, files);
  return {
    name: parsed.name,
    address: /:\d+$/.test(parsed.address) ? parsed.address : `${parsed.address}:${defaultPort}`,
    ...(tls === undefined ? {} : { tls }),
    ...(keyFile === undefined ? {} : { apiKeyFile: await files.apiKey(`${where}.api-key-file`, keyFile) }),
    namespaces: parsed.namespaces,
    ...(blobNamespaces === undefined ? {} : { blobNamespaces }),
    isIsolated: parsed['isolated-namespaces'],
    requestsPerSecond: parsed['requests-per-second'],
    ...(timeout === undefined ? {} : { requestTimeoutMs: timeout * 1000 }),
    claimFreeEncodings: parsed['claim-free-encodings'],
    acceptServerVersions: parsed['accept-server-versions'],
    ...(uiAddress === undefined ? {} : { uiAddress }),
  };
}

async function tlsOf(
  tls: boolean | z.infer<typeof tlsSchema>,
  where: string,
  files: NamedFiles,
): Promise<ClusterTls | undefined> {
  if (tls === false) return undefined;
  if (tls === true) return {};
  const { ca, cert, key, 'server-name': serverName } = tls;
  return {
    ...(ca === undefined ? {} : { ca: await files.read(`${where}.ca`, ca) }),
    ...(cert === undefined || key === undefined
      ? {}
      : { client: { cert: await files.read(`${where}.cert`, cert), key: await files.read(`${where}.key`, key) } }),
    ...(serverName === undefined ? {} : { serverName }),
  };
}

/** `host`, `host:port`, `[::1]:port`; gRPC would take `https://…` for a resolver's name, and wait. */
function isAddress(text: string): boolean {
  const port = /:(\d+)$/.exec(text.replace(/^\[[^\]]*\]/, ''))?.[1];
  const isPort = port === undefined || (Number(port) >= 1 && Number(port) <= 65_535);
  return isPort && /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d+)?$/.test(text);
}

function hostOf(address: string): string {
  return address.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}
