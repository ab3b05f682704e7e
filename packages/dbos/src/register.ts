import type { FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { registerCleanUp } from './clean-up.js';
import type { Frame } from './frame.js';
import { inOrder, type Names, namesOf, type S3WorkflowConfig, settingsOf } from './settings.js';
import { sweepCancelled } from './sweep.js';

/** Everything of a workflow but its body: its clean-up, and the sweep of what was cancelled. */
export function register<R extends FileRecord, Options>(
  given: readonly (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[],
  defaultName: string,
  kind: Pick<Frame<R, Options>, 'kind' | 'lastEffect' | 'leftBy'>,
): { frame: Frame<R, Options>; registration: Names['registration'] & { name: string } } {
  const { config, callbacks } = inOrder<R, Options>(given);
  const settings = settingsOf(config);
  const names = namesOf(config, defaultName);
  const cleanUp = registerCleanUp(names, settings, callbacks);
  const frame: Frame<R, Options> = { ...kind, names, settings, callbacks, cleanUp };
  sweepCancelled(frame);
  return { frame, registration: { ...names.registration, name: names.name } };
}
