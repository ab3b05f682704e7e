/** The catalogs that the world runs on. */
import { memoryLifecycle } from '../catalog/memory-lifecycle.js';
import type { MemoryModel } from '../catalog/memory-model.js';
import type { SimCatalog } from './world-fixture.js';

export async function openMemory(
  now: () => number,
  graceMs: number,
  patch?: (model: MemoryModel) => void,
): Promise<SimCatalog> {
  const { catalog, lifecycle, model, lead } = memoryLifecycle({ now, graceMs });
  patch?.(model);
  return { catalog, lifecycle, lead: async () => lead() };
}
