import { type LoggedProcess, waitUntilReady } from '@large-payload/test-components';

/** Waits until a process has written something. Throws with its output, and another's that matters, when it does not. */
export async function says(process: LoggedProcess, text: string | RegExp, other?: LoggedProcess): Promise<void> {
  const said = (): boolean =>
    typeof text === 'string' ? process.output().includes(text) : text.test(process.output());
  try {
    await waitUntilReady(process, `${text}`, async () => said());
  } catch (cause) {
    // the last words of a process that ended count as well
    if (!said()) throw new Error(`not said: ${text}\n${process.output()}\n${other?.output() ?? ''}`, { cause });
  }
}
