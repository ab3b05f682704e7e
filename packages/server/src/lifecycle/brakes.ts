/**
 * What stops the collection until a person has looked (gc.md, rule 7). A brake is set when something is seen that should
 * not be, whatever the reason; `lps gc resume` lets go of it.
 */
import type { Brake, LifecycleCatalog, Mark, NamespaceName } from './lifecycle-catalog.js';

type NewBrake = Omit<Brake, 'since'>;

/** A cluster that is asked for the wrong things answers with nothing: the most likely way to lose everything. */
const minHolders = 10;
const maxLostShare = 0.3;

/** Holders that the later of two complete marks should have seen as well. */
export function lostHolders(earlier: Mark, later: Mark): NewBrake | undefined {
  const [was, is] = [earlier.holders, later.holders];
  const isFewer = was >= minHolders && is < (1 - maxLostShare) * was;
  if (!isFewer && !(was > 0 && is === 0)) return undefined;
  const name = nameOf(later.namespace);
  return { kind: 'holders_lost', reason: `${name}: ${is} holders, and ${was} in the mark before` };
}

/** Namespaces that were marked once, and are not configured any more: what they hold would look like garbage. */
export function smallerConfiguration(
  known: readonly NamespaceName[],
  configured: readonly NamespaceName[],
): NewBrake | undefined {
  const names = new Set(configured.map(nameOf));
  const lost = known.map(nameOf).filter((name) => !names.has(name));
  if (lost.length === 0) return undefined;
  return { kind: 'smaller_configuration', reason: `not configured any more: ${lost.slice(0, 20).join(', ')}` };
}

/** Reads from quarantine: somebody still needed what no mark had found. */
export async function revived(catalog: LifecycleCatalog, since: Date): Promise<NewBrake | undefined> {
  const count = await catalog.revivedSince(since);
  if (count === 0) return undefined;
  return { kind: 'revived', reason: `${count} blobs were read while they were in quarantine: a holder was missed` };
}

/** The brakes that stop one blob namespace. */
export function brakesOn(brakes: readonly Brake[], blobNamespace: string): Brake[] {
  return brakes.filter((brake) => brake.blobNamespace === undefined || brake.blobNamespace === blobNamespace);
}

export function nameOf({ cluster, name }: NamespaceName): string {
  return `${cluster}/${name}`;
}
