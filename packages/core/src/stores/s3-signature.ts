/**
 * AWS Signature Version 4, for one service and few headers: a tenth of the time of the SDK's general one.
 *
 *   signature = HMAC(key of the day, "AWS4-HMAC-SHA256" \n time \n scope \n hex SHA-256 of the canonical request)
 *
 * Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
 */
import { createHash, createHmac } from 'node:crypto';

/** What signs; `sessionToken` comes with temporary keys. */
export interface SigningKeys {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
  /** When they end. */
  readonly expiration?: Date | undefined;
}

export interface Signable {
  readonly method: string;
  /** Escaped as it is sent. S3 takes it as it stands: not normalised, not escaped again. */
  readonly path: string;
  /** Escaped, its names sorted. */
  readonly query: string;
  /** Lower-case names, all of them signed, `host` among them. */
  readonly headers: Readonly<Record<string, string>>;
  /** 64 hexadecimal digits. */
  readonly bodySha256: string;
}

export type Signer = (request: Signable, keys: SigningKeys, now?: Date) => Record<string, string>;

export const emptySha256 = createHash('sha256').digest('hex');

export type Presigner = (
  request: Omit<Signable, 'query' | 'bodySha256'>,
  keys: SigningKeys,
  expiresInSeconds: number,
  now?: Date,
) => string;

/**
 * Signs a request that somebody else will send: gives its query. All of `headers` are signed, so whoever sends it must
 * send them too. (The SDK's own presigner moves most of them into the query, where S3 does not look for
 * `if-none-match`, and leaves `content-length` out.)
 *
 * Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
 */
export function s3Presigner(region: string): Presigner {
  const keyOf = dailyKey(region);
  return ({ method, path, headers }, keys, expiresInSeconds, now = new Date()) => {
    const time = timeOf(now);
    const scope = scopeOf(time, region);
    const { names, lines } = canonicalHeaders(headers);
    const query: Record<string, string> = {
      'X-Amz-Algorithm': 'AWS4-HMAC-SHA256',
      'X-Amz-Credential': `${keys.accessKeyId}/${scope}`,
      'X-Amz-Date': time,
      'X-Amz-Expires': String(expiresInSeconds),
      ...(keys.sessionToken === undefined ? {} : { 'X-Amz-Security-Token': keys.sessionToken }),
      'X-Amz-SignedHeaders': names,
    };
    const text = Object.entries(query)
      .map(([name, value]) => `${name}=${escapeQuery(value)}`)
      .join('&');
    const canonical = `${method}\n${path}\n${text}\n${lines}\n${names}\nUNSIGNED-PAYLOAD`;
    const signature = signatureOf(keyOf(keys.secretAccessKey, time.slice(0, 8)), time, scope, canonical);
    return `${text}&X-Amz-Signature=${signature}`;
  };
}

/** Signs for S3 in one region: gives the request's headers with those of the signature. */
export function s3Signer(region: string): Signer {
  const keyOf = dailyKey(region);
  return ({ method, path, query, headers, bodySha256 }, keys, now = new Date()) => {
    const time = timeOf(now);
    const scope = scopeOf(time, region);
    const all: Record<string, string> = { ...headers, 'x-amz-content-sha256': bodySha256, 'x-amz-date': time };
    if (keys.sessionToken !== undefined) all['x-amz-security-token'] = keys.sessionToken;

    const { names, lines } = canonicalHeaders(all);
    const canonical = `${method}\n${path}\n${query}\n${lines}\n${names}\n${bodySha256}`;
    const signature = signatureOf(keyOf(keys.secretAccessKey, time.slice(0, 8)), time, scope, canonical);
    all.authorization = `AWS4-HMAC-SHA256 Credential=${keys.accessKeyId}/${scope}, SignedHeaders=${names}, Signature=${signature}`;
    return all;
  };
}

/** `20261123T073412Z`; the day is its beginning. */
function timeOf(now: Date): string {
  return now.toISOString().replace(/\.\d+|[-:]/g, '');
}

function scopeOf(time: string, region: string): string {
  return `${time.slice(0, 8)}/${region}/s3/aws4_request`;
}

function canonicalHeaders(headers: Readonly<Record<string, string>>): { names: string; lines: string } {
  const names = Object.keys(headers).sort();
  let lines = '';
  for (const name of names) lines += `${name}:${(headers[name] ?? '').trim().replace(/ {2,}/g, ' ')}\n`;
  return { names: names.join(';'), lines };
}

function signatureOf(key: Buffer, time: string, scope: string, canonical: string): string {
  const text = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${createHash('sha256').update(canonical).digest('hex')}`;
  return createHmac('sha256', key).update(text).digest('hex');
}

/** Derives the key of a day, and keeps the last one. */
function dailyKey(region: string): (secretAccessKey: string, day: string) => Buffer {
  let last: { readonly secret: string; readonly day: string; readonly key: Buffer } | undefined;
  return (secret, day) => {
    if (last?.secret === secret && last.day === day) return last.key;
    let key: Buffer = Buffer.from(`AWS4${secret}`);
    for (const part of [day, region, 's3', 'aws4_request']) key = createHmac('sha256', key).update(part).digest();
    last = { secret, day, key };
    return key;
  };
}

/** An object's name in a URL's path: everything escaped but the unreserved characters of RFC 3986 and `/`. */
export function escapePath(name: string): string {
  return escapeQuery(name).replaceAll('%2F', '/');
}

/** A name or value in a URL's query. */
export function escapeQuery(text: string): string {
  // encodeURIComponent leaves these five, which S3 wants escaped
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}
