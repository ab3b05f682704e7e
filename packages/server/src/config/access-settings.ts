/** Who may call, and from where: their part of the table in settings.ts. */

import { choice, count, duration, list, text, url } from './kinds.js';
import { isPlainOrigin } from './origins.js';

const path = (example: string) =>
  text({ placeholder: 'file', expects: `a file such as ${example}`, pattern: /^[^\0]+$/ });
const second = 1000;
const minute = 60 * second;
const day = 24 * 60 * minute;

export const listeningSettings = {
  tlsCert: {
    flag: 'tls-cert',
    kind: path('/etc/lps/tls.crt'),
    group: 'Listening',
    help: 'Certificate chain (PEM) to answer HTTPS with. Read again when it changes.',
  },
  tlsKey: {
    flag: 'tls-key',
    kind: path('/etc/lps/tls.key'),
    group: 'Listening',
    help: 'Its private key (PEM).',
  },
} as const;

export const accessSettings = {
  auth: {
    flag: 'auth',
    kind: choice('none', 'required'),
    group: 'Authentication',
    default: 'none',
    help: 'required: every request needs a token, of "lps token create" or a JWT.',
  },
  authIssuer: {
    flag: 'auth-issuer',
    kind: text({
      placeholder: 'iss',
      expects: 'an issuer such as https://login.example',
      pattern: /^[\x21-\x7e]{1,500}$/,
    }),
    group: 'Authentication',
    defaultHelp: 'no JWTs are taken',
    help: 'The "iss" that JWTs must have.',
  },
  authAudiences: {
    flag: 'auth-audience',
    kind: list(text({ placeholder: 'aud', expects: 'an audience such as lps', pattern: /^[\x21-\x7e]{1,500}$/ })),
    group: 'Authentication',
    default: '',
    help: 'The "aud" that JWTs must have one of.',
  },
  authJwks: {
    flag: 'auth-jwks',
    kind: text({
      placeholder: 'URL|file',
      expects: 'a URL such as https://login.example/.well-known/jwks.json, or a file',
      accept: (value) => !/^[a-z]+:\/\//i.test(value) || (URL.canParse(value) && /^https?:/i.test(value)),
    }),
    group: 'Authentication',
    help: 'Keys of the issuer.',
  },
  authAlgorithms: {
    flag: 'auth-algorithm',
    kind: list(choice('RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'), 'alg'),
    group: 'Authentication',
    default: 'RS256,PS256,ES256,EdDSA',
    help: 'Signatures of JWTs that are taken.',
  },
  authClockSkewMs: {
    flag: 'auth-clock-skew',
    kind: duration(0, 5 * minute, '60s'),
    group: 'Authentication',
    default: '60s',
    help: "How far the issuer's clock may be off.",
  },
  authPolicy: {
    flag: 'auth-policy',
    kind: path('policy.yaml'),
    group: 'Authentication',
    defaultHelp: 'the "permissions" of Temporal\'s own tokens',
    help: 'YAML file that maps claims of JWTs to namespaces and rights.',
  },
  tokenRate: {
    flag: 'token-rate',
    kind: count(0, 1_000_000, 100),
    group: 'Authentication',
    default: '0',
    help: 'Requests a second of one token, with bursts of twice as many. 0 is no limit.',
  },
  tokenConcurrency: {
    flag: 'token-concurrency',
    kind: count(0, 1_000_000, 64),
    group: 'Authentication',
    default: '0',
    help: 'Requests of one token at the same time. 0 is no limit.',
  },
  auditLog: {
    flag: 'audit-log',
    kind: path('/var/log/lps/audit.jsonl'),
    group: 'Authentication',
    defaultHelp: 'the table "audit" alone',
    help: 'File for who decoded, downloaded and changed what: a line of JSON each. It is also kept in the catalog.',
  },
  auditRetentionMs: {
    flag: 'audit-retention',
    kind: duration(day, 3650 * day, '90d'),
    group: 'Authentication',
    default: '90d',
    help: 'Time for which the catalog keeps the audit.',
  },
} as const;

export const corsSetting = {
  corsOrigins: {
    flag: 'cors-origin',
    kind: list(url({ schemes: ['http:', 'https:'], example: 'https://temporal.example', accept: isPlainOrigin })),
    group: 'Codec server',
    default: '',
    defaultHelp: 'http://localhost:8233 on loopback, else none',
    help: "Origin of a Temporal Web UI that may call the codec server from its users' browsers.",
  },
} as const;
