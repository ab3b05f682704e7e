/** The lines of a table, its columns as wide as they must be; text to the left, numbers to the right. */
export function renderTable(head, rows) {
  const all = [head, ...rows].map((row) => row.map((cell) => String(cell ?? '-')));
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const isNumber = head.map((_, column) => all.slice(1).every((row) => /^[-\d]/.test(row[column])));
  const line = (row) => row.map((cell, at) => (isNumber[at] ? cell.padStart(widths[at]) : cell.padEnd(widths[at])));
  const lines = all.map((row) => `| ${line(row).join(' | ')} |`);
  const rule = `| ${widths.map((width, at) => (isNumber[at] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width))).join(' | ')} |`;
  return [lines[0], rule, ...lines.slice(1)];
}

/** One row for each store, size, phase and server: the median of the rounds; errors are summed up, memory is the most. */
export function summary(results) {
  const rows = groups(results, ['store', 'size_name', 'phase', 'server']).map((group) => {
    const [{ store, size_name, phase, server, n, c }] = group;
    const middle = (field) => tidy(median(group.map((result) => result[field])));
    const most = (field) => tidy(Math.max(...group.map((result) => result[field])));
    const errors = group.reduce((sum, result) => sum + result.errors, 0);
    const load = [middle('ops_s'), middle('MB_s'), middle('p50_ms'), middle('p99_ms'), errors];
    const usage = [
      most('peak_rss_MiB'),
      middle('cpu_s'),
      most('database_MiB'),
      middle('database_cpu_s'),
      middle('store_cpu_s'),
    ];
    return [store, size_name, phase, server, n, c, ...load, ...usage];
  });
  const load = ['blobs', 'clients', 'ops/s', 'MB/s', 'p50 ms', 'p99 ms', 'errors'];
  const usage = ['RSS MiB', 'CPU s', 'DB MiB', 'DB CPU s', 'S3 CPU s'];
  return renderTable(['store', 'size', 'phase', 'server', ...load, ...usage], rows);
}

/**
 * ours/peer in ops/s, of the runs next to each other, and in CPU time (ours with its database), which a busy machine
 * disturbs less. Empty when there is no peer.
 */
export function comparison(results) {
  const rows = groups(results, ['store', 'size_name', 'phase']).flatMap((group) => {
    const [{ store, size_name, phase }] = group;
    const pairs = groups(group, ['round']).flatMap((pair) => {
      const [ours, peer] = ['ours', 'peer'].map((name) => pair.find((result) => result.server === name));
      return ours && peer ? [{ speed: ours.ops_s / peer.ops_s, cpu: cpuOf(ours) / cpuOf(peer) }] : [];
    });
    if (pairs.length === 0) return [];
    const ratios = ['speed', 'cpu'].flatMap((name) => middleAndRange(pairs.map((pair) => pair[name])));
    return [[store, size_name, phase, ...ratios, pairs.length]];
  });
  const head = ['store', 'size', 'phase', 'ops/s ours/peer', 'min - max', 'CPU ours/peer', 'min - max', 'rounds'];
  return rows.length === 0 ? [] : renderTable(head, rows);
}

function cpuOf({ cpu_s, database_cpu_s }) {
  return cpu_s + database_cpu_s;
}

export function middleAndRange(values) {
  const known = values.filter(Number.isFinite);
  if (known.length === 0) return [undefined, undefined];
  return [median(known).toFixed(2), `${Math.min(...known).toFixed(2)} - ${Math.max(...known).toFixed(2)}`];
}

export function median(values) {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export function groups(results, fields) {
  const found = new Map();
  for (const result of results) {
    const name = fields.map((field) => result[field]).join(' ');
    found.set(name, [...(found.get(name) ?? []), result]);
  }
  return [...found.values()];
}

export function tidy(value) {
  if (value === undefined || Number.isNaN(value)) return undefined;
  return value >= 100 ? Math.round(value) : Number(value.toFixed(value >= 10 ? 1 : 2));
}
