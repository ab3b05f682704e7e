/**
 * An upload while its lease is renewed. Whoever waits for the end of a lease (the sweep, a takedown) may then believe that its
 * object is not written any more: so an upload that could not renew its lease gives up before that ends, by its own steady
 * clock, counted from when it *sent* the last wish that was granted.
 */
import { type Clock, LpsError } from '@large-payload/core';

export interface KeptLease {
  /** Prolongs the lease. `false`: it is gone, or what it is for was taken down. */
  renew(): Promise<boolean>;
  /** When the lease was asked for, by the clock's `monotonicMs`. */
  readonly askedAtMs: number;
  /** How long it holds. */
  readonly leaseMs: number;
  readonly renewMs: number;
  readonly clock: Pick<Clock, 'monotonicMs' | 'sleep'>;
}

/** A timer of Node cannot wait for longer. */
const maxSleepMs = 2 ** 31 - 1;

/**
 * The signal is aborted when the lease is lost; `upload` must then write nothing any more, and what it throws is thrown as
 * TRY_AGAIN (the lease is gone) or CATALOG_UNAVAILABLE (nobody could say).
 */
export async function whileLeased<T>(lease: KeptLease, upload: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const lost = new AbortController();
  const over = new AbortController();
  const keeping = keep(lease, lost, over.signal);
  try {
    return await upload(lost.signal);
  } catch (error) {
    throw lost.signal.aborted ? lost.signal.reason : error;
  } finally {
    over.abort();
    await keeping;
  }
}

/** Until it is over: renews at its times, and watches the end. */
async function keep(
  { renew, askedAtMs, leaseMs, renewMs, clock }: KeptLease,
  lost: AbortController,
  over: AbortSignal,
): Promise<void> {
  let endsAtMs = askedAtMs + leaseMs;
  const untilOver = async (ms: number): Promise<boolean> => {
    await clock.sleep(Math.min(ms, maxSleepMs), over).catch(() => undefined);
    return over.aborted || lost.signal.aborted;
  };
  const renewing = async (): Promise<void> => {
    while (!(await untilOver(renewMs))) {
      const sentAtMs = clock.monotonicMs();
      const isRenewed = await renew().catch(() => undefined); // the next one may be granted
      if (isRenewed === true) endsAtMs = Math.max(endsAtMs, sentAtMs + leaseMs);
      else if (isRenewed === false) lost.abort(gone());
    }
  };
  const watching = async (): Promise<void> => {
    for (;;) {
      const leftMs = endsAtMs - clock.monotonicMs();
      if (leftMs <= 0) return lost.abort(unrenewed());
      if (await untilOver(leftMs)) return;
    }
  };
  void renewing();
  await watching();
}

function gone(): LpsError {
  return new LpsError('TRY_AGAIN', 'the blob was deleted or taken down while it was uploaded; send it again');
}

function unrenewed(): LpsError {
  return new LpsError('CATALOG_UNAVAILABLE', 'the lease of this upload could not be renewed in time; send it again');
}
