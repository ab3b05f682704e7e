/** What decides when a blob goes: its part of the table in settings.ts. */
import { parseNamespace } from '@large-payload/core';
import { count, duration, list, namespace, text, yesNo } from './kinds.js';

const second = 1000;
const minute = 60 * second;
const day = 24 * 60 * minute;
const years = 3650 * day;

/** A namespace and a time: `orders=90d`. */
const keptFor = text({
  placeholder: 'name=time',
  expects: 'a namespace and a time such as orders=90d',
  accept: (value) => parseRetention(value) !== undefined,
});

const time = duration(minute, years, '90d');

/** `orders=90d` → its parts; `undefined` when it is not one. */
export function parseRetention(value: string): { readonly namespace: string; readonly keptMs: number } | undefined {
  const at = value.lastIndexOf('=');
  const parsed = time.schema.safeParse(value.slice(at + 1));
  try {
    const named = parseNamespace(value.slice(0, Math.max(0, at)));
    return parsed.success ? { namespace: named, keptMs: parsed.data } : undefined;
  } catch {
    return undefined;
  }
}

export const collectionSettings = {
  clusters: {
    flag: 'clusters',
    kind: text({ placeholder: 'file', expects: 'a file such as clusters.yaml', pattern: /^[^\0]+$/ }),
    group: 'Collection',
    defaultHelp: 'no Temporal cluster is asked, and nothing is collected',
    help: 'YAML file with the Temporal clusters whose workflows may hold blobs.',
  },
  collect: {
    flag: 'collect',
    kind: list(namespace()),
    group: 'Collection',
    default: '',
    help: 'Namespace in which blobs that nobody holds are deleted. In the others it is only said what would go.',
  },
  graceMs: {
    flag: 'grace',
    kind: duration(second, years, '7d'),
    group: 'Collection',
    default: '7d',
    help: 'Time after its last use in which a blob is kept, whether a workflow holds it or not. At least 1d.',
  },
  quarantineMs: {
    flag: 'quarantine',
    kind: duration(second, years, '7d'),
    group: 'Collection',
    default: '7d',
    help: 'Time for which a blob that nobody holds can still be read and brought back. At least 1d.',
  },
  visibilityMs: {
    flag: 'visibility-bound',
    kind: duration(0, day, '10m'),
    group: 'Collection',
    default: '10m',
    help: 'How long it may take until Temporal lists what was started. At least 1m.',
  },
  collectIntervalMs: {
    flag: 'collect-interval',
    kind: duration(second, 30 * day, '6h'),
    group: 'Collection',
    default: '6h',
    help: 'Time between two rounds of asking who holds what.',
  },
  collectMaxPercent: {
    flag: 'collect-max-percent',
    kind: count(1, 100, 5),
    group: 'Collection',
    default: '5',
    help: "Share of a namespace's bytes that may go in one round. More of it stops the collection until a person has looked.",
  },
  collectRetention: {
    flag: 'collect-retention',
    kind: list(keptFor),
    group: 'Collection',
    default: '',
    help:
      'For namespaces that no cluster answers for: time after its last use in which a blob is kept. Unsafe where workflows ' +
      'run for longer than that: what they still hold goes.',
  },
  unsafeTimes: {
    flag: 'unsafe-times',
    kind: yesNo(),
    group: 'Collection',
    default: 'false',
    help: 'Allow times of the collection that are too short to be safe. For tests.',
  },
} as const;
