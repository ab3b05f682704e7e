import { type FailingId, type Finding, fail, ok, warn } from './finding.js';

const warnMs = 60_000;
/** S3 and its like refuse what was signed by a clock that is off by more. */
const failMs = 15 * 60_000;

/** What a difference of clocks means. `skewMs`: theirs minus ours. */
export function judgeClock(id: FailingId, whose: string, skewMs: number | undefined): Finding[] {
  if (skewMs === undefined) return [];
  const byMs = Math.abs(skewMs);
  if (byMs <= warnMs) return [ok(id, 'clocks agree')];
  const seen = `the clock of ${whose} is ${roughTime(byMs)} ${skewMs > 0 ? 'ahead of' : 'behind'} ours`;
  const todo = 'set the clocks by NTP, on both machines';
  if (byMs <= failMs) return [warn(id, seen, todo)];
  return [fail(id, `${seen}; signed requests are refused from 15 minutes on`, todo)];
}

function roughTime(ms: number): string {
  const minutes = Math.round(ms / 60_000);
  return minutes < 120 ? `${minutes} minutes` : `${Math.round(minutes / 60)} hours`;
}
