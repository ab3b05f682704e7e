// What processes use, read from /proc. Elsewhere than on Linux nothing is known, and nothing is shown.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const isLinux = process.platform === 'linux';
const ticksPerSecond = isLinux ? Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' })) : 100;

/** CPU seconds of a process, user and system; `withEnded` adds those of its children that have ended. */
export function cpuSeconds(pid, withEnded = false) {
  const fields = statOf(pid);
  if (fields === undefined) return 0;
  // utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
  const ticks = fields.slice(11, withEnded ? 15 : 13).map(Number);
  return ticks.reduce((sum, value) => sum + value, 0) / ticksPerSecond;
}

/** The most memory that a process had, in MiB, since it was started or `resetPeakRss` was called. */
export function peakRssMiB(pid) {
  return statusMiB(pid, 'VmHWM');
}

export function rssMiB(pid) {
  return statusMiB(pid, 'VmRSS');
}

export function resetPeakRss(pid) {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5');
  } catch {
    // then the peak is that of its whole life
  }
}

/** The service's database: its children, and theirs. Shared memory is counted once (Pss). */
export function childrenUsage(pid) {
  const pids = descendants(pid);
  return {
    cpuS: pids.reduce((sum, child) => sum + cpuSeconds(child, true), 0),
    pssMiB: pids.reduce((sum, child) => sum + pssMiB(child), 0),
  };
}

function descendants(root) {
  if (!isLinux) return [];
  const parents = new Map();
  for (const name of readdirSync('/proc')) {
    const fields = /^\d+$/.test(name) ? statOf(name) : undefined;
    if (fields !== undefined) parents.set(Number(name), Number(fields[1]));
  }
  const found = [root];
  for (const parent of found) for (const [pid, of] of parents) if (of === parent) found.push(pid);
  return found.slice(1);
}

/** The fields of /proc/PID/stat from the third on: the second one, the name, may hold anything. */
function statOf(pid) {
  const text = read(`/proc/${pid}/stat`);
  return text?.slice(text.lastIndexOf(')') + 2).split(' ');
}

function statusMiB(pid, field) {
  const kiB = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(read(`/proc/${pid}/status`) ?? '')?.[1];
  return kiB === undefined ? undefined : Number(kiB) / 1024;
}

function pssMiB(pid) {
  return Number(/^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`) ?? '')?.[1] ?? 0) / 1024;
}

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // the process has ended, or is another user's
  }
}
