import type { Command } from 'commander';
import { addExport } from './catalog-export.js';
import { addImport } from './catalog-import.js';
import { addReconcile } from './catalog-reconcile.js';
import type { Terminal } from './terminal.js';

/** `lps catalog …` */
export function addCatalog(program: Command, terminal: Terminal): void {
  const catalog = program.command('catalog').description('Compare, back up and bring back the catalog.');
  for (const add of [addReconcile, addExport, addImport]) add(catalog, terminal);
}
