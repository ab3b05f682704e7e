import { isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';

/** One line `name: value` of a configuration file. `text` is absent when the line has no plain value. */
export interface FileEntry {
  readonly name: string;
  readonly text?: string;
  /** The text is that of a list, with commas. */
  readonly isList?: true;
  readonly line: number;
}

/** What a configuration file says, and what is wrong with it as a file. */
export interface ParsedFile {
  readonly entries: readonly FileEntry[];
  readonly problems: readonly string[];
}

const maxFileBytes = 1024 * 1024;

/** Takes a YAML file apart that is one flat map of names to plain values, or lists of them. Values stay text; their settings read them. */
export function parseConfigFile(path: string, content: string): ParsedFile {
  if (Buffer.byteLength(content) > maxFileBytes) return { entries: [], problems: [`${path}: larger than 1 MiB`] };
  const lines = new LineCounter();
  const document = parseDocument(content, { lineCounter: lines, prettyErrors: false, logLevel: 'silent' });
  const lineAt = (offset: number | undefined): number => lines.linePos(offset ?? 0).line;
  if (document.errors.length > 0) {
    return {
      entries: [],
      problems: document.errors.map((error) => `${path}:${lineAt(error.pos[0])}: ${reason(error)}`),
    };
  }
  if (document.contents === null) return { entries: [], problems: [] };
  if (!isMap(document.contents)) {
    return { entries: [], problems: [`${path}:1: the file must hold lines such as "port: 8577"`] };
  }
  const entries = document.contents.items.map(({ key, value }): FileEntry => {
    const name = isScalar(key) ? String(key.source ?? key.value) : '?';
    const line = lineAt(isScalar(key) ? key.range?.[0] : undefined);
    const list = isSeq(value) ? plainItems(value.items) : undefined;
    if (list !== undefined) return { name, text: list.join(','), isList: true, line };
    if (!isScalar(value) || value.value === null) return { name, line };
    // as it was written, so that the same text means the same in every place
    return { name, text: value.source ?? String(value.value), line };
  });
  return { entries, problems: [] };
}

/** The texts of a list; `undefined` when it holds something else, or a text that a list of settings could not. */
function plainItems(items: readonly unknown[]): string[] | undefined {
  const texts = items.flatMap((item) =>
    isScalar(item) && item.value !== null ? [item.source ?? String(item.value)] : [],
  );
  return texts.length === items.length && texts.every((one) => !one.includes(',')) ? texts : undefined;
}

function reason(error: { code: string; message: string }): string {
  if (error.code === 'DUPLICATE_KEY') return 'this name is given twice';
  return `not readable as YAML: ${error.message.split('\n')[0] ?? error.code}`;
}
