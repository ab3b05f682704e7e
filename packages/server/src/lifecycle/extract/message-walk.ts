/** A decoded message taken apart, along its descriptors. */
import type { Payload } from '@temporalio/common';
import { type FieldPlan, fieldsOf, isAny, type ReflectedType, typeNamed } from './descriptors.js';

export type Part =
  | { readonly kind: 'payload'; readonly payload: Payload }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'text'; readonly text: string }
  /** Its parts come later. */
  | { readonly kind: 'message' }
  /** Not what the descriptors say, by the name of the field. */
  | { readonly kind: 'other'; readonly field: string };

/** Everything in the message, in no order. No recursion: messages nest as deep as whoever sent them likes. */
export function* partsOf(type: ReflectedType, message: object): Generator<Part> {
  const waiting: { readonly type: ReflectedType; readonly message: object }[] = [{ type, message }];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    yield* unknownFields(next.message);
    if (isAny(next.type)) yield* contentOfAny(next.message, waiting);
    for (const field of fieldsOf(next.type)) {
      const content = ownValue(next.message, field.name);
      if (content == null) continue;
      for (const value of valuesOf(field, content)) {
        if (field.type !== undefined && field.kind === 'message' && typeof value === 'object') {
          waiting.push({ type: field.type, message: value });
          yield { kind: 'message' };
        } else yield partOf(field, value);
        if (field.kind === 'payload' && typeof value === 'object') yield* unknownFields(value);
      }
      if (field.hasTextKeys) for (const text of Object.keys(content)) yield { kind: 'text', text };
    }
  }
}

/** The values of one field: itself, or those that it lists. */
function valuesOf({ shape, kind }: FieldPlan, content: NonNullable<unknown>): readonly NonNullable<unknown>[] {
  if (kind === 'number') return [];
  if (shape === 'one' || typeof content !== 'object') return [content];
  return Object.values(content).filter((item) => item != null);
}

function partOf({ kind, name }: FieldPlan, value: NonNullable<unknown>): Part {
  if (kind === 'payload') {
    const payload = payloadOf(value);
    return payload === undefined ? { kind: 'other', field: name } : { kind, payload };
  }
  if (isBytes(value)) return { kind: 'bytes', bytes: value };
  if (typeof value === 'string') return { kind: 'text', text: value };
  return { kind: 'other', field: name };
}

function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array;
}

/** Of its own: a decoded message has defaults behind it, and that for bytes is an empty list. */
function ownValue(message: object, name: string): unknown {
  return Object.hasOwn(message, name) ? (message as Record<string, unknown>)[name] : undefined;
}

/** `undefined` when it is none. */
function payloadOf(value: NonNullable<unknown>): Payload | undefined {
  const [metadata, data, sizes] = ['metadata', 'data', 'externalPayloads'].map((name) => ownValue(value, name));
  if (data != null && !isBytes(data)) return undefined;
  if (typeof metadata !== 'object' && metadata !== undefined) return undefined;
  if (!Object.values(metadata ?? {}).every(isBytes)) return undefined;
  return {
    metadata: (metadata ?? {}) as Record<string, Uint8Array>,
    data: data ?? new Uint8Array(),
    ...(Array.isArray(sizes) && sizes.length > 0 ? { externalPayloads: sizes } : {}),
  };
}

/** Fields of a newer server, where the reader was told to keep them (protobufjs: `discardUnknown`). */
function* unknownFields(message: object): Generator<Part> {
  const fields = ownValue(message, '$unknowns');
  if (!Array.isArray(fields)) return;
  for (const bytes of fields) if (isBytes(bytes)) yield { kind: 'bytes', bytes };
}

/** The message inside, where its type is known; its bytes are searched in any case. */
function* contentOfAny(
  any: { readonly type_url?: unknown; readonly value?: unknown },
  waiting: { readonly type: ReflectedType; readonly message: object }[],
): Generator<Part> {
  const { type_url: url, value } = any;
  const type = typeof url === 'string' ? typeNamed(url.slice(url.lastIndexOf('/') + 1)) : undefined;
  if (type === undefined || !isBytes(value)) return;
  try {
    waiting.push({ type, message: type.decode(value) });
  } catch {
    yield { kind: 'other', field: 'Any' };
  }
}
