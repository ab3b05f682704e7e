/** Signatures with an account's key. Source: "Authorize with Shared Key" of Azure's documentation, version 2015-02-21 on. */

export interface SharedKey {
  readonly account: string;
  /** HMAC-SHA256 with the account's key, in base64. */
  sign(text: string): string;
}

export interface SignableRequest {
  readonly method: string;
  /** As it is sent. */
  readonly url: string;
  /** As they are sent, `x-ms-date` included; lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
}

const signedHeaders = [
  'content-encoding',
  'content-language',
  'content-length',
  'content-md5',
  'content-type',
  'date',
  'if-modified-since',
  'if-match',
  'if-none-match',
  'if-unmodified-since',
  'range',
];

/** The request's `authorization`. */
export function sharedKeyAuthorization({ method, url, headers }: SignableRequest, key: SharedKey): string {
  const [place = '', query = ''] = url.split('?', 2);
  const path = place.slice(place.indexOf('/', 'https://'.length)) || '/';
  const lines = [
    method,
    ...signedHeaders.map((name) => (name === 'content-length' && headers[name] === '0' ? '' : (headers[name] ?? ''))),
    ...canonicalHeaders(headers),
    `/${key.account}${path}`,
    ...canonicalQuery(query),
  ];
  return `SharedKey ${key.account}:${key.sign(lines.join('\n'))}`;
}

function canonicalHeaders(headers: Readonly<Record<string, string>>): string[] {
  const names = Object.keys(headers).filter((name) => name.startsWith('x-ms-'));
  return names.sort().map((name) => `${name}:${headers[name]?.trim()}`);
}

function canonicalQuery(query: string): string[] {
  const pairs = query.split('&').filter((pair) => pair !== '');
  return pairs
    .map((pair) => {
      const [name = '', value = ''] = pair.split('=', 2).map(decodeURIComponent);
      return [name.toLowerCase(), value] as const;
    })
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}:${value}`);
}
