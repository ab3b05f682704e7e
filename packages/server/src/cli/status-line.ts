/**
 * How far a long command is, on standard error:
 *
 *   on a terminal   [######--------------] 31 %  4,120 blobs, 1.2 GiB, 48.9 MiB/s     one line, written over and over
 *   elsewhere       lps: 31 %, 4,120 blobs, 1.2 GiB, 48.9 MiB/s                       a line every five seconds
 */
import { shown, type Terminal } from './terminal.js';

export interface Status {
  /** In a few words, the most important first: it is cut at the edge of the screen. */
  readonly text: string;
  /** 0 to 1, where the end is known. */
  readonly fraction?: number;
}

export interface StatusLine {
  /** Writes a line to standard output, so that the status stays below it. */
  print(text: string): void;
  /** Takes the status away. */
  end(): void;
}

const redrawMs = 200;
const plainEveryMs = 5000;
const barWidth = 20;
const clear = '\r\u001b[K';

/** Shows what `ask` answers, until `end`. Commands that are done at once show nothing. */
export function statusLine(
  terminal: Pick<Terminal, 'stdout' | 'stderr'>,
  ask: () => Status,
  everyMs: number = terminal.stderr.isTTY === true ? redrawMs : plainEveryMs,
): StatusLine {
  const { stdout, stderr } = terminal;
  const isTerminal = stderr.isTTY === true;
  let isDrawn = false;
  const draw = (): void => {
    stderr.write(isTerminal ? `${clear}${onOneLine(ask(), stderr.columns ?? 80)}` : `lps: ${plain(ask())}\n`);
    isDrawn = isTerminal;
  };
  const remove = (): void => {
    if (isDrawn) stderr.write(clear);
    isDrawn = false;
  };
  const timer = setInterval(draw, everyMs);
  return {
    print(text) {
      const wasDrawn = isDrawn;
      if (stdout.isTTY) remove();
      stdout.write(`${shown(text, stdout)}\n`);
      if (wasDrawn && !isDrawn) draw();
    },
    end() {
      clearInterval(timer);
      remove();
    },
  };
}

function plain({ text, fraction }: Status): string {
  return fraction === undefined ? text : `${percent(fraction)}, ${text}`;
}

/** One column less than there are: a full line makes some terminals go on to the next one. */
function onOneLine({ text, fraction }: Status, columns: number): string {
  if (fraction === undefined) return text.slice(0, columns - 1);
  const done = Math.round(barWidth * Math.min(1, fraction));
  const bar = `[${'#'.repeat(done)}${'-'.repeat(barWidth - done)}]`;
  return `${bar} ${percent(fraction).padStart(5)}  ${text}`.slice(0, columns - 1);
}

/** Rounded down: 100 % is when it is done. */
function percent(fraction: number): string {
  return `${Math.floor(Math.min(1, fraction) * 100)} %`;
}
