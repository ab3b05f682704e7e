/** Activities that leave large payloads with the server, and check on the next attempt what they get back. */
import { Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import { large, nameOf, requireText } from './collection-content.ts';

/** They run in the process of the test, which lets the beating ones go on. */
export class Activities {
  readonly #released = new Map<string, () => void>();

  readonly all = {
    work: async (input: string): Promise<string> => large(`${nameOf(input)}, worked on`),

    /** Its failure is in no history as long as another attempt may follow. */
    failsFirst: async (input: string): Promise<string> => {
      const name = nameOf(input);
      if (Context.current().info.attempt > 1) return large(`${name}, at last`);
      const details = [large(`${name}, failed at first`)];
      throw ApplicationFailure.create({ message: 'for now', details });
    },

    /** Beats once, and fails when it is let go. The next attempt gets what the first one beat. */
    beats: async (input: string): Promise<string> => {
      const name = nameOf(input);
      const { heartbeat, info, cancelled } = Context.current();
      if (info.attempt > 1) {
        requireText(info.heartbeatDetails, `${name}, beating`);
        return large(`${name}, resumed`);
      }
      heartbeat(large(`${name}, beating`));
      await Promise.race([cancelled, new Promise<void>((resolve) => this.#released.set(name, resolve))]);
      throw ApplicationFailure.create({ message: 'let go' });
    },
  };

  /** `false`: it does not beat yet. */
  letGo(name: string): boolean {
    const release = this.#released.get(name);
    release?.();
    return this.#released.delete(name);
  }

  letAllGo(): void {
    for (const name of this.#released.keys()) this.letGo(name);
  }
}

export type LifeActivities = Activities['all'];
