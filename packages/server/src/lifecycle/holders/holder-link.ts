import type { HolderKind } from './holder-kind.js';

/** Where Temporal's Web UI shows a holder. `uiAddress`: without a slash at its end. */
export function holderLink(
  uiAddress: string,
  namespace: string,
  { kind, externalId }: { readonly kind: HolderKind['name']; readonly externalId: string },
): string {
  const ids = externalId.split('\n').map(encodeURIComponent);
  const place = kind === 'run' ? 'workflows' : 'schedules';
  return `${uiAddress}/namespaces/${encodeURIComponent(namespace)}/${place}/${ids.join('/')}`;
}
