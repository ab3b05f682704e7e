/**
 * What was found, for people: a paragraph a topic, what is right in few words, what is not with what to do.
 *
 *   runtime    ok    Node 20.20.2; linux x64, glibc; 8 GiB of memory
 *   bucket     ok    no versions; no retention
 *              FAIL  this bucket deletes blobs by itself after 30 days (the rule "tidy")    bucket.lifecycle
 *                    → remove the rule, or …
 */
import { escapeControls } from '../cli/terminal.js';
import type { Finding, Severity } from './finding.js';

export interface ReportLook {
  /** Columns to fill. */
  readonly width: number;
  readonly isColoured: boolean;
}

const topicWidth = 11;
const textColumn = topicWidth + 6;
const marks: Readonly<Record<Severity, string>> = { ok: 'ok  ', info: 'info', warn: 'warn', fail: 'FAIL' };
/** Of SGR, as terminals know them: green, cyan, yellow, bold red. */
const colours: Readonly<Record<Severity, string>> = { ok: '32', info: '36', warn: '33', fail: '1;31' };

/** Ends with a line that counts. */
export function reportText(findings: readonly Finding[], look: ReportLook): string {
  const topics = [...new Set(findings.map(topicOf))];
  const paragraphs = topics.map((topic) => {
    const all = findings.filter((finding) => topicOf(finding) === topic);
    const right = all.filter(({ severity }) => severity === 'ok').map(({ seen }) => seen);
    const entries = [
      ...(right.length > 0 ? [entry('ok', right.join('; '), look)] : []),
      ...all.filter(({ severity }) => severity !== 'ok').map((finding) => problem(finding, look)),
    ];
    return entries.map((text, index) => (index === 0 ? topic : '').padEnd(topicWidth) + text).join('');
  });
  return `${paragraphs.join('')}\n${summaryText(findings)}\n`;
}

/** `{"id":"store.put","severity":"fail","seen":"…","todo":"…"}` a line, and the count as the last one. */
export function reportJson(findings: readonly Finding[]): string {
  const lines = findings.map((finding) => JSON.stringify(finding));
  return `${[...lines, JSON.stringify({ kind: 'summary', ...countsOf(findings) })].join('\n')}\n`;
}

export function countsOf(findings: readonly Finding[]): Record<Severity, number> {
  const counts: Record<Severity, number> = { ok: 0, info: 0, warn: 0, fail: 0 };
  for (const { severity } of findings) counts[severity] += 1;
  return counts;
}

function topicOf({ id }: Finding): string {
  return id.split('.', 1)[0] ?? id;
}

function problem({ id, severity, seen, todo }: Finding, look: ReportLook): string {
  const text = entry(severity, `${seen} [${id}]`, look);
  return todo === undefined ? text : text + indented(wrapped(`→ ${escapeControls(todo)}`, look.width - textColumn));
}

function entry(severity: Severity, text: string, { width, isColoured }: ReportLook): string {
  const [first = '', ...rest] = wrapped(escapeControls(text), width - textColumn);
  const mark = isColoured ? `\u001b[${colours[severity]}m${marks[severity]}\u001b[0m` : marks[severity];
  return `${mark}  ${first}\n${indented(rest)}`;
}

function indented(lines: readonly string[]): string {
  return lines.map((line) => `${' '.repeat(textColumn)}${line}\n`).join('');
}

/** Broken between words; a word that is longer than a line has one of its own. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

function summaryText(findings: readonly Finding[]): string {
  const { warn, fail } = countsOf(findings);
  if (warn + fail === 0) return 'All is well.';
  const parts = [
    ...(fail > 0 ? [`${fail} failed`] : []),
    ...(warn > 0 ? [`${warn} ${warn === 1 ? 'warning' : 'warnings'}`] : []),
  ];
  return `${parts.join(', ')}. docs/doctor.md explains each of them.`;
}
