import type { UploadEffects } from '../direct/upload-effects.js';
import { uploadWorkflow } from '../direct/upload-workflow.js';
import type { WorkflowTable } from './workflows.js';

/** Every workflow of the service, by the name under which it is kept: a name is never given to another one. */
export function serviceWorkflows(effects: UploadEffects, takedown: (id: string) => Promise<void>) {
  return { directUpload: uploadWorkflow(effects), takedown } as const satisfies WorkflowTable;
}
