/** What a GCS bucket's own settings do to blobs, from the bucket's description. */
import type { BucketSettings, CallOptions, LifecycleRule } from '../blob-store.js';
import { isLpsError } from '../errors.js';
import type { Transport } from '../transport.js';
import { clockSkewMs } from './clock-skew.js';
import { readJson, type SendToGcs } from './gcs-request.js';

interface GcsBucket {
  readonly versioning?: { readonly enabled?: boolean };
  readonly softDeletePolicy?: { readonly retentionDurationSeconds?: string };
  readonly lifecycle?: { readonly rule?: readonly GcsRule[] };
  readonly retentionPolicy?: { readonly retentionPeriod?: string };
  readonly objectRetention?: { readonly mode?: string };
  readonly defaultEventBasedHold?: boolean;
}

interface GcsRule {
  readonly action?: { readonly type?: string; readonly storageClass?: string };
  readonly condition?: {
    readonly age?: number;
    readonly isLive?: boolean;
    readonly numNewerVersions?: number;
    readonly daysSinceNoncurrentTime?: number;
    readonly matchesPrefix?: readonly string[];
  };
}

const daySeconds = 24 * 60 * 60;

/** Whether the bucket keeps versions, as far as we may know. */
export async function keepsVersions(send: SendToGcs): Promise<boolean> {
  return (await describe(send, 'versioning', {}))?.versioning?.enabled === true;
}

export async function gcsSettings(
  send: SendToGcs,
  transport: Transport,
  origin: string,
  options: CallOptions,
): Promise<BucketSettings> {
  const skew = await clockSkewMs(transport, `${origin}/`, options);
  const fields = 'versioning,softDeletePolicy,lifecycle,retentionPolicy,objectRetention,defaultEventBasedHold';
  const bucket = await describe(send, fields, options);
  return { ...(bucket === undefined ? {} : settingsOf(bucket)), ...(skew === undefined ? {} : { clockSkewMs: skew }) };
}

/** The bucket; `undefined` where we may not ask. */
async function describe(send: SendToGcs, fields: string, { signal }: CallOptions): Promise<GcsBucket | undefined> {
  try {
    return await readJson<GcsBucket>(await send({ method: 'GET', query: { fields }, signal }));
  } catch (error) {
    if (isLpsError(error) && [403, 501].includes(Number(error.details.status))) return undefined;
    throw error;
  }
}

function settingsOf(bucket: GcsBucket): BucketSettings {
  const { versioning, softDeletePolicy, lifecycle, retentionPolicy, objectRetention, defaultEventBasedHold } = bucket;
  const softDeleteSeconds = softDeletePolicy?.retentionDurationSeconds;
  return {
    versioning: versioning?.enabled === true ? 'on' : 'off',
    // a bucket without a policy keeps nothing, but an old or a foreign server does not know of it either
    ...(softDeleteSeconds === undefined ? {} : { softDeleteDays: Number(softDeleteSeconds) / daySeconds }),
    lifecycle: (lifecycle?.rule ?? []).flatMap(rulesOf),
    retention: retentionPolicy !== undefined || objectRetention?.mode === 'Enabled' || defaultEventBasedHold === true,
  };
}

/** GCS's rules have no names: they are counted. One for several prefixes becomes one for each. */
function rulesOf({ action = {}, condition = {} }: GcsRule, index: number): LifecycleRule[] {
  const kind = actionOf(action.type, condition);
  if (kind === undefined) return [];
  const afterDays = kind === 'delete-old-versions' ? condition.daysSinceNoncurrentTime : condition.age;
  return (condition.matchesPrefix ?? ['']).map((prefix) => ({
    id: `rule ${index + 1}`,
    prefix,
    action: kind,
    ...(afterDays === undefined ? {} : { afterDays }),
    ...(action.storageClass === undefined ? {} : { storageClass: action.storageClass }),
  }));
}

function actionOf(type: string | undefined, condition: GcsRule['condition'] = {}): LifecycleRule['action'] | undefined {
  if (type === 'SetStorageClass') return 'transition';
  if (type === 'AbortIncompleteMultipartUpload') return 'abort-uploads';
  if (type !== 'Delete') return undefined;
  const { isLive, numNewerVersions = 0, daysSinceNoncurrentTime = 0 } = condition;
  const isOfOldVersions = isLive === false || numNewerVersions > 0 || daysSinceNoncurrentTime > 0;
  return isOfOldVersions ? 'delete-old-versions' : 'delete';
}
