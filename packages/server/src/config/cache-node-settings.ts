/** Where a cache node gets its blobs: its part of the table in settings.ts. */
import { text, url } from './kinds.js';

export const cacheNodeSettings = {
  upstream: {
    flag: 'upstream',
    kind: url({
      schemes: ['http:', 'https:'],
      example: 'https://payloads.internal:8577',
      accept: ({ username, password, search, hash }) => `${username}${password}${search}${hash}` === '',
    }),
    group: 'Cache node',
    help: 'The service that "lps cache" stands before.',
  },
  upstreamToken: {
    flag: 'upstream-token',
    kind: text({ placeholder: 'token', expects: 'a token of "lps token create"', pattern: /^[\x21-\x7e]{1,16384}$/ }),
    group: 'Cache node',
    secret: true,
    defaultHelp: 'the service asks nobody',
    help: 'The cache node’s own token there: read and write on every namespace.',
  },
  nodeName: {
    flag: 'node-name',
    kind: text({
      placeholder: 'name',
      expects: 'a name of at most 100 printable characters',
      pattern: /^[\x20-\x7e]{1,100}$/,
    }),
    group: 'Cache node',
    defaultHelp: 'the name of the machine',
    help: 'How the service’s operator sees this cache node.',
  },
} as const;
