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

/** Signs for S3 in one region: gives the request's headers with those of the signature. */
export function s3Signer(region: string): Signer {
  const keyOf = dailyKey(region);
  return ({ method, path, query, headers, bodySha256 }, keys, now = new Date()) => {
    const time = now.toISOString().replace(/\.\d+|[-:]/g, '');
    const day = time.slice(0, 8);
    const scope = `${day}/${region}/s3/aws4_request`;
    const all: Record<string, string> = { ...headers, 'x-amz-content-sha256': bodySha256, 'x-amz-date': time };
    if (keys.sessionToken !== undefined) all['x-amz-security-token'] = keys.sessionToken;

    const names = Object.keys(all).sort();
    let canonical = `${method}\n${path}\n${query}\n`;
    for (const name of names) canonical += `${name}:${(all[name] ?? '').trim().replace(/ {2,}/g, ' ')}\n`;
    const signed = names.join(';');
    canonical += `\n${signed}\n${bodySha256}`;

    const text = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${createHash('sha256').update(canonical).digest('hex')}`;
    const signature = createHmac('sha256', keyOf(keys.secretAccessKey, day)).update(text).digest('hex');
    all.authorization = `AWS4-HMAC-SHA256 Credential=${keys.accessKeyId}/${scope}, SignedHeaders=${signed}, Signature=${signature}`;
    return all;
  };
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
