/**
 * Who does something in the simulated world, and in which order. Every call of an actor to Temporal, to the catalog or to
 * the store waits for its turn; between two turns nothing happens. An actor that crashes never
 * gets one again: what it calls is not answered.
 */
import type { SeededRandom } from './random-fixture.js';

export interface Turn {
  readonly actor: Actor;
  readonly label: string;
  /** Makes the call, and gives its outcome to whoever waits for it. */
  run(): Promise<void>;
  /** It was never answered. */
  cutOff(): void;
}

export class Turns {
  readonly waiting: Turn[] = [];
  /** Requests of the dead that are still on the wire. */
  readonly onTheWire: Turn[] = [];
  readonly #random: SeededRandom;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  /** Takes one turn of anybody, or of one actor. `false` when nobody waits. */
  async take(actor?: Actor): Promise<boolean> {
    const choice = actor === undefined ? this.waiting : this.waiting.filter((turn) => turn.actor === actor);
    const turn = this.#random.pickOrNone(choice);
    if (turn === undefined) return false;
    this.waiting.splice(this.waiting.indexOf(turn), 1);
    await turn.run();
    await quiet();
    return true;
  }

  waitsFor(actor: Actor, label: string): boolean {
    return this.waiting.some((turn) => turn.actor === actor && turn.label === label);
  }

  /** One request of somebody dead arrives, long after. */
  async arrive(): Promise<void> {
    const turn = this.#random.pickOrNone(this.onTheWire);
    if (turn === undefined) return;
    this.onTheWire.splice(this.onTheWire.indexOf(turn), 1);
    await turn.run();
    await quiet();
  }

  /** What is under way is never answered; deletions may still be on their way. */
  crash(actor: Actor): void {
    actor.isDead = true;
    for (const turn of this.waiting.filter((one) => one.actor === actor)) {
      this.waiting.splice(this.waiting.indexOf(turn), 1);
      if (turn.label === 'store.delete') this.onTheWire.push(turn);
      turn.cutOff();
    }
  }
}

/** Until whoever goes on has come to its next call. */
export function quiet(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export class Actor {
  isDead = false;
  /** The task under way, if any. */
  isBusy = false;
  readonly name: string;
  readonly #turns: Turns;

  constructor(name: string, turns: Turns) {
    this.name = name;
    this.#turns = turns;
  }

  /** Does it, call by call, while others do theirs. `done` hears of failures. */
  begin(task: () => Promise<void>, failed: (error: unknown) => void): void {
    this.isBusy = true;
    void task()
      .catch((error: unknown) => {
        if (!this.isDead) failed(error);
      })
      .finally(() => {
        this.isBusy = false;
      });
  }

  /** The same object, but calls of its methods wait for their turn: all of them, or those that are named. */
  wrap<Target extends object>(target: Target, label: string, methods?: readonly string[]): Target {
    return new Proxy(target, {
      get: (of, property) => {
        const value: unknown = Reflect.get(of, property, of);
        if (typeof value !== 'function' || typeof property === 'symbol') return value;
        if (methods !== undefined && !methods.includes(property)) return value.bind(of);
        return (...values: unknown[]) => this.#call(`${label}.${property}`, async () => value.apply(of, values));
      },
    });
  }

  #call(label: string, call: () => Promise<unknown>): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const cutOff = (): void => reject(new Error('crashed'));
      if (this.isDead) return cutOff();
      const run = (): Promise<void> => call().then(resolve, reject);
      this.#turns.waiting.push({ actor: this, label, run, cutOff });
    });
  }
}
