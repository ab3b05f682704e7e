export type ComponentName = 's3' | 'gcs' | 'temporal' | 'temporal-cli' | 'temporal-ui' | 'lpsbench';

export interface Component {
  product: string;
  version: string;
  goPackage?: string;
  goSource?: string;
}

export const components: Record<ComponentName, Component>;
export function cacheDir(): string;
export function installDir(name: ComponentName): string;
export function installedPath(name: ComponentName): string;
export function isRequired(name: string): boolean;
