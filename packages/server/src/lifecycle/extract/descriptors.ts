/**
 * What there is to read in a message of Temporal's API, from the descriptors that come with the SDK: an SDK that knows new
 * fields makes them read here.
 */
import proto from '@temporalio/proto';

/** Of protobufjs' reflection, what is used here. Its classes are not: there may be several copies. */
interface ReflectedField {
  readonly name: string;
  readonly type: string;
  readonly repeated: boolean;
  readonly map: boolean;
  /** Of a map. */
  readonly keyType?: string;
  /** Of a message or an enumeration; known after `resolve()`. */
  readonly resolvedType: ReflectedType | object | null;
  resolve(): unknown;
}

export interface ReflectedType {
  /** `.temporal.api.common.v1.Payload` */
  readonly fullName: string;
  readonly fieldsArray: readonly ReflectedField[];
  decode(bytes: Uint8Array): object;
}

export interface FieldPlan {
  /** As protobufjs names it: `encodedAttributes`. */
  readonly name: string;
  readonly shape: 'one' | 'list' | 'map';
  /** What it, or each of its items, is. */
  readonly kind: 'payload' | 'message' | 'text' | 'bytes' | 'number';
  /** Of a message. */
  readonly type?: ReflectedType;
  /** Of a map whose keys are texts. */
  readonly hasTextKeys: boolean;
}

const root = proto as unknown as { lookupType(name: string): ReflectedType };
const payloadType = root.lookupType('temporal.api.common.v1.Payload').fullName;
const anyName = 'google.protobuf.Any';
const plans = new WeakMap<ReflectedType, readonly FieldPlan[]>();

/** `undefined` when the SDK does not know it. */
export function typeNamed(name: string): ReflectedType | undefined {
  try {
    return root.lookupType(name);
  } catch {
    return undefined;
  }
}

export function isAny({ fullName }: ReflectedType): boolean {
  return fullName === anyName || fullName === `.${anyName}`;
}

/** The fields of a type that can hold anything but numbers. */
export function fieldsOf(type: ReflectedType): readonly FieldPlan[] {
  const known = plans.get(type);
  if (known !== undefined) return known;
  const plan = type.fieldsArray.map(planOf).filter(({ kind, hasTextKeys }) => kind !== 'number' || hasTextKeys);
  plans.set(type, plan);
  return plan;
}

function planOf(field: ReflectedField): FieldPlan {
  field.resolve();
  const { name, repeated, map, keyType, resolvedType } = field;
  const shape = map ? 'map' : repeated ? 'list' : 'one';
  const type = isType(resolvedType) ? resolvedType : undefined;
  const hasTextKeys = map && keyType === 'string';
  if (type === undefined) return { name, shape, kind: kindOf(field.type), hasTextKeys };
  return { name, shape, kind: type.fullName === payloadType ? 'payload' : 'message', type, hasTextKeys };
}

function isType(value: object | null): value is ReflectedType {
  return value !== null && 'fieldsArray' in value;
}

function kindOf(type: string): 'text' | 'bytes' | 'number' {
  if (type === 'string') return 'text';
  return type === 'bytes' ? 'bytes' : 'number';
}
