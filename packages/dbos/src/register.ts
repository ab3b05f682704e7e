import type { FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { registerCleanUp } from './clean-up.js';
import type { Frame } from './run.js';
import { inOrder, type Names, namesOf, type S3WorkflowConfig, settingsOf } from './settings.js';
import { sweepCancelled, type UndoOf } from './sweep.js';

interface Kind {
  readonly kind: 'upload' | 'delete';
  readonly defaultName: string;
  /** The step that is recorded when nothing is left to do. */
  readonly lastEffect: string;
  readonly undoOf: UndoOf;
}

/** Everything of a workflow but its body: its clean-up, and the sweep of what was cancelled. */
export function register<R extends FileRecord, Options>(
  given: readonly (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[],
  { kind, defaultName, lastEffect, undoOf }: Kind,
): { frame: Frame<R, Options>; registration: Names['registration'] & { name: string } } {
  const { config, callbacks } = inOrder<R, Options>(given);
  const settings = settingsOf(config);
  const names = namesOf(config, defaultName);
  const cleanUp = registerCleanUp(names, settings, callbacks);
  const frame: Frame<R, Options> = { kind, names, settings, callbacks, cleanUp };
  sweepCancelled(frame, lastEffect, undoOf);
  return { frame, registration: { ...names.registration, name: names.name } };
}
