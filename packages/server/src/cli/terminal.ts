/** What the commands read from and write to; tests put streams of their own in its place. */
export interface Terminal {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stdout: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number };
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly cwd: string;
  /** Fires on Ctrl-C: commands stop and clean up. */
  readonly signal: AbortSignal;
}

/**
 * Control and formatting characters as `\u{…}`: ids and keys come from other people, and a terminal obeys such
 * characters (colours, titles, text that runs backwards) instead of showing them.
 */
export function escapeControls(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

/** Text for standard output: escaped for a terminal, exact for a pipe or a file. */
export function shown(text: string, stream: { readonly isTTY?: boolean }): string {
  return stream.isTTY ? escapeControls(text) : text;
}

/** Whether bytes are not text that can be shown: anything but UTF-8, or with control characters. */
export function looksBinary(bytes: Uint8Array): boolean {
  // a character may be cut at the end of the sample
  const text = new TextDecoder('utf-8').decode(bytes, { stream: true });
  return text.includes('\ufffd') || /(?![\t\n\r])\p{Cc}/u.test(text);
}

/** Bytes for people: `734 B`, `12.3 MiB`. */
export function roughBytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, value)) / 10)));
  const amount = value / 1024 ** power;
  return `${power === 0 ? amount : amount.toFixed(1)} ${units[power] ?? 'B'}`;
}
