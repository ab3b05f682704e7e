import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { childrenUsage, cpuSeconds, peakRssMiB, resetPeakRss } from './usage.mjs';

const stopTimeoutMs = 5000;

/**
 * Runs lpsbench through all phases against a server; calls `onPhase` with each one's figures and what the server used.
 * Before the reads the server is restarted, when its store outlives that.
 */
export async function runLoad({ lpsbench, server, store, size, count, clients, hot, gatewayPid, onPhase }) {
  const phases = `put,dup,${store === 'memory' ? '' : 'pause,'}get,get,hot`;
  const numbers = { n: count, size, c: clients, hot };
  const args = Object.entries(numbers).flatMap(([name, value]) => [`-${name}`, String(value)]);
  const child = spawn(lpsbench, ['-url', server.url, '-phases', phases, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  try {
    let measure = startMeasuring(server.pid, gatewayPid);
    let reads = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      const result = JSON.parse(line);
      if (result.phase === 'pause') {
        await server.restart();
        measure = startMeasuring(server.pid, gatewayPid);
        child.stdin.write('\n');
        continue;
      }
      if (result.phase === 'get' && ++reads === 2) result.phase = 'again';
      onPhase({ ...result, ...measure() });
      measure = startMeasuring(server.pid, gatewayPid);
    }
    const [code, signal] = await ended;
    if (code !== 0) throw new Error(`lpsbench: exit code ${code ?? signal}\n${server.output()}`);
  } finally {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill();
      setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs).unref();
      await ended;
    }
  }
}

/** What the server used until the returned function is called. */
function startMeasuring(pid, gatewayPid) {
  resetPeakRss(pid);
  const read = () => ({
    cpu_s: cpuSeconds(pid),
    database_cpu_s: childrenUsage(pid).cpuS,
    store_cpu_s: gatewayPid === undefined ? 0 : cpuSeconds(gatewayPid),
  });
  const before = read();
  return () => {
    const after = read();
    const used = Object.fromEntries(
      Object.entries(after).map(([name, value]) => [name, round(value - before[name], 2)]),
    );
    return { peak_rss_MiB: round(peakRssMiB(pid)), database_MiB: round(childrenUsage(pid).pssMiB), ...used };
  };
}

function round(value, digits = 0) {
  return value === undefined ? undefined : Number(value.toFixed(digits));
}
