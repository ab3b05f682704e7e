/**
 * The kinds of values that settings have. Flags, variables and files all give text; a kind reads it and writes it back.
 */
import { isIP } from 'node:net';
import { parseNamespace } from '@large-payload/core';
import { z } from 'zod';

/** How one kind of value is read from text, written as text, and explained. */
export interface Kind<V> {
  readonly schema: z.ZodType<V, string>;
  /** Ends the sentence "… is not …", with an example of a right value. */
  readonly expects: string;
  /** The value's name in the help, as in `--port <number>`; absent for a yes or no. */
  readonly placeholder?: string;
  /** A list: its flag may be given several times. */
  readonly isList?: true;
  format(value: V): string;
}

/** Any text of at least one character, or what `pattern` allows. */
export function text(options: {
  placeholder: string;
  expects: string;
  pattern?: RegExp;
  accept?: (text: string) => boolean;
}): Kind<string> {
  const { pattern, accept } = options;
  const schema = z
    .string()
    .min(1)
    .refine((value) => pattern?.test(value) ?? true)
    .refine((value) => accept?.(value) ?? true);
  return { schema, expects: options.expects, placeholder: options.placeholder, format: (value) => value };
}

/** One of a few words. */
export function choice<const C extends readonly [string, ...string[]]>(...choices: C): Kind<C[number]> {
  return {
    schema: z.enum(choices),
    expects: `one of ${choices.join(', ')}`,
    placeholder: choices.join('|'),
    format: (value) => value,
  };
}

/** A whole number. */
export function count(min: number, max: number, example: number): Kind<number> {
  return {
    schema: z.string().regex(/^\d+$/).transform(Number).pipe(z.number().int().min(min).max(max)),
    expects: `a whole number from ${min} to ${max}, such as ${example}`,
    placeholder: 'number',
    format: String,
  };
}

const truths: Readonly<Record<string, boolean>> = {
  true: true,
  yes: true,
  on: true,
  '1': true,
  false: false,
  no: false,
  off: false,
  '0': false,
};

/** Yes or no. As a flag it takes no value: `--metrics`, `--no-metrics`. */
export function yesNo(): Kind<boolean> {
  const schema = z.string().transform((value, context) => {
    const word = value.toLowerCase();
    const truth = Object.hasOwn(truths, word) ? truths[word] : undefined;
    return truth ?? refuse(context);
  });
  return { schema, expects: 'true or false', format: String };
}

const byteUnits: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1000,
  MB: 1000 ** 2,
  GB: 1000 ** 3,
  TB: 1000 ** 4,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
  TiB: 1024 ** 4,
};

/** A number of bytes: `1048576`, `64MiB`, `200kB`. Upper and lower case do not matter. */
export function bytes(min: number, max: number, example: string): Kind<number> {
  return {
    schema: quantity(byteUnits, 'B', min, max),
    expects: `a size from ${formatBytes(min)} to ${formatBytes(max)}, such as ${example}`,
    placeholder: 'size',
    format: formatBytes,
  };
}

const durationUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** A time in milliseconds: `500ms`, `30s`, `5m`, `12h`, `7d`. The unit is required: `30` says nothing. */
export function duration(minMs: number, maxMs: number, example: string): Kind<number> {
  return {
    schema: quantity(durationUnits, undefined, minMs, maxMs),
    expects: `a time from ${formatDuration(minMs)} to ${formatDuration(maxMs)}, such as ${example}`,
    placeholder: 'time',
    format: formatDuration,
  };
}

/** A URL with one of some schemes. What it carries beside scheme, host and path is up to `accept`. */
export function url(options: {
  schemes: readonly string[];
  example: string;
  accept?: (url: URL) => boolean;
}): Kind<string> {
  return text({
    placeholder: 'URL',
    expects: `a URL such as ${options.example}`,
    accept: (value) => {
      if (!URL.canParse(value)) return false;
      const parsed = new URL(value);
      return options.schemes.includes(parsed.protocol) && (options.accept?.(parsed) ?? true);
    },
  });
}

/** A name or an address to listen on. */
export function hostname(): Kind<string> {
  const name = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/i;
  return text({
    placeholder: 'address',
    expects: 'an address such as 127.0.0.1 or a name such as localhost',
    accept: (value) => isIP(value) !== 0 || (name.test(value) && !/^[\d.]+$/.test(value)),
  });
}

/** A Temporal namespace. */
export function namespace(): Kind<string> {
  return text({
    placeholder: 'name',
    expects: 'a namespace such as orders',
    accept: (value) => {
      try {
        return parseNamespace(value) === value;
      } catch {
        return false;
      }
    },
  });
}

/** Several values: flags one by one, elsewhere separated by commas. An empty text is none of them. */
export function list<V extends string>(one: Kind<V>, placeholder = one.placeholder): Kind<readonly V[]> {
  return {
    schema: z
      .string()
      .transform((value) =>
        value
          .split(',')
          .map((item) => item.trim())
          .filter((item) => item !== ''),
      )
      .pipe(z.array(one.schema)),
    expects: `${one.expects}, or several with commas between them`,
    ...(placeholder === undefined ? {} : { placeholder }),
    isList: true,
    format: (value) => value.join(','),
  };
}

/** The shortest exact text: `1073741824` → `1GiB`, `1500` → `1500`. */
export function formatBytes(value: number): string {
  return shortest(value, byteUnits, ['TiB', 'TB', 'GiB', 'GB', 'MiB', 'MB', 'KiB', 'kB']) ?? String(value);
}

/** The shortest exact text: `604800000` → `7d`, `90000` → `90s`. */
export function formatDuration(valueMs: number): string {
  return shortest(valueMs, durationUnits, ['d', 'h', 'm', 's']) ?? (valueMs === 0 ? '0s' : `${valueMs}ms`);
}

function shortest(
  value: number,
  units: Readonly<Record<string, number>>,
  names: readonly string[],
): string | undefined {
  const name = names.find((unit) => value > 0 && value % (units[unit] ?? 1) === 0);
  return name === undefined ? undefined : `${value / (units[name] ?? 1)}${name}`;
}

function quantity(
  units: Readonly<Record<string, number>>,
  plainUnit: string | undefined,
  min: number,
  max: number,
): z.ZodType<number, string> {
  const factors = new Map(Object.entries(units).map(([name, factor]) => [name.toLowerCase(), factor]));
  return z
    .string()
    .transform((value, context) => {
      const [, amount, unit] = /^(\d+(?:\.\d{1,3})?) ?([a-z]*)$/i.exec(value) ?? [];
      const factor = factors.get((unit === '' ? plainUnit : unit)?.toLowerCase() ?? '');
      if (amount === undefined || factor === undefined) return refuse(context);
      // in thousandths, so that 1.1MB is a whole number of bytes
      return (Math.round(Number(amount) * 1000) * factor) / 1000;
    })
    .pipe(z.number().int().min(min).max(max));
}

function refuse(context: z.RefinementCtx): never {
  context.addIssue({ code: 'custom', message: 'refused' });
  return z.NEVER;
}
