/** Erasure on request, and how soon nobody serves what was erased: its part of the table in settings.ts. */
import { duration, text } from './kinds.js';

const second = 1000;

export const takedownSettings = {
  maxStalenessMs: {
    flag: 'max-staleness',
    kind: duration(second, 3600 * second, '60s'),
    group: 'Takedown',
    default: '60s',
    help: 'How long a replica or cache node may serve from what it keeps without word from the catalog. The same for all of them.',
  },
  takedownKey: {
    flag: 'takedown-key',
    kind: text({ placeholder: 'file', expects: 'a file such as takedown-key.pem', pattern: /^[^\0]+$/ }),
    group: 'Takedown',
    defaultHelp: 'takedown-key.pem in the data directory, made when it is needed; with a database URL there is none',
    help: 'Private key that signs receipts of takedowns: Ed25519, PEM. The same for all replicas.',
  },
} as const;
