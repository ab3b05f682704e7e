/** The codecs that the settings name: `zlib`, `aes-gcm`, or ES modules of one's own. */
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { decodeBase64, LpsError } from '@large-payload/core';
import type { PayloadCodec } from '@temporalio/common';

export interface CodecSettings {
  /** `ID=BASE64`, of 32 bytes each, separated by commas or new lines. */
  readonly codecKeys: string | undefined;
  /** Default: the first of them. */
  readonly codecKeyId: string | undefined;
  readonly codecDeterministic: boolean;
  /** A payload that would be larger is not unpacked. */
  readonly codecResponseBytes: number;
}

/** In their order. Throws CONFIG_INVALID. */
export async function loadCodecs(names: readonly string[], settings: CodecSettings): Promise<PayloadCodec[]> {
  const codecs: PayloadCodec[] = [];
  for (const name of names) codecs.push(...(await loadCodec(name, settings)));
  return codecs;
}

async function loadCodec(name: string, settings: CodecSettings): Promise<readonly PayloadCodec[]> {
  if (name !== 'zlib' && name !== 'aes-gcm') return loadModule(name);
  const { EncryptionCodec, ZlibCodec } = await import('@large-payload/temporal');
  if (name === 'zlib') return [new ZlibCodec({ maxBytes: settings.codecResponseBytes })];
  const keys = parseKeys(settings.codecKeys);
  const [first] = Object.keys(keys);
  const keyId = settings.codecKeyId ?? first;
  if (keyId === undefined) throw new LpsError('CONFIG_INVALID', 'the codec aes-gcm needs --codec-keys');
  return [new EncryptionCodec({ keys, keyId, deterministic: settings.codecDeterministic })];
}

/** Keys by their ids, in their order. No message shows any of a key. Throws CONFIG_INVALID. */
export function parseKeys(text: string | undefined): Record<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  const entries = (text ?? '').split(/[,\n]/).map((entry) => entry.trim());
  for (const [index, entry] of entries.filter((one) => one !== '').entries()) {
    const [, id, encoded] = /^([^=\s]{1,200})=(.*)$/.exec(entry) ?? [];
    if (id === undefined || encoded === undefined || id === '__proto__')
      throw new LpsError('CONFIG_INVALID', `codec-keys: entry ${index + 1} is not an id, "=" and a key`);
    const bytes = decodeBase64(encoded);
    if (bytes?.length !== 32)
      throw new LpsError('CONFIG_INVALID', `codec-keys: the key ${JSON.stringify(id)} is not base64 of 32 bytes`);
    if (keys.has(id)) throw new LpsError('CONFIG_INVALID', `codec-keys: there are two keys ${JSON.stringify(id)}`);
    keys.set(id, new Uint8Array(bytes));
  }
  return Object.fromEntries(keys);
}

async function loadModule(name: string): Promise<readonly PayloadCodec[]> {
  const module = await importModule(name);
  const exported = module.default ?? module.codec ?? module.codecs;
  if (exported === undefined)
    throw new LpsError('CONFIG_INVALID', `the codec ${name} exports none of \`default\`, \`codec\` and \`codecs\``);
  const codecs = Array.isArray(exported) ? (exported as unknown[]) : [exported];
  if (codecs.length > 0 && codecs.every(isCodec)) return codecs;
  throw new LpsError(
    'CONFIG_INVALID',
    `the codec ${name} does not export PayloadCodecs: each needs encode() and decode()`,
  );
}

/** A path, from the current directory; else the name of a package. */
async function importModule(name: string): Promise<Record<string, unknown>> {
  const isPath = /^[./]|\.[cm]?js$/.test(name);
  try {
    return (await import(isPath ? pathToFileURL(resolve(name)).href : name)) as Record<string, unknown>;
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause)).split('\n', 1)[0];
    throw new LpsError('CONFIG_INVALID', `the codec ${name} cannot be loaded: ${reason}`, { cause });
  }
}

function isCodec(value: unknown): value is PayloadCodec {
  if (typeof value !== 'object' || value === null) return false;
  const { encode, decode } = value as { readonly encode?: unknown; readonly decode?: unknown };
  return typeof encode === 'function' && typeof decode === 'function';
}
