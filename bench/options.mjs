import { parseArgs } from 'node:util';

export const allStores = ['memory', 'file', 's3'];
/** What is measured, in this order; `get` is cold, `again` the same blobs once more, `hot` few blobs over and over. */
export const allPhases = ['put', 'dup', 'get', 'again', 'hot'];

export const help = `npm run bench -- [options]

Starts the service, drives it with a load generator in Go, and prints one JSON line for each phase and a table.

  put     blobs that are new
  dup     the same blobs uploaded again
  get     every blob back, each for the first time: the service (and the peer) is restarted before, so its cache is empty
  again   every blob back, once more: whether the cache helps depends on whether they fit into it
  hot     as many reads, but only of as many blobs as fit into 32 MiB, as with workflows that are replayed

Options:
  --stores LIST   of memory, file, s3                     (default: all three)
  --sizes LIST    such as 200kB,1MiB,64MiB                (default: these three)
  --only LIST     of put, dup, get, again, hot            (default: all; what a phase needs runs, but is not shown)
  --clients N     at the same time                        (default: 16, and 4 for 16 MiB and more)
  --count N       blobs of each size                      (default: about 400 MB of each size, at most 2000 blobs)
  --rounds N      everything so often                     (default: 1, and 3 with --peer)
  --quick         few blobs: a smoke test, whose figures mean little
  --serve=ARGS    more arguments for lps serve, such as --serve='--cache-memory-bytes 256MiB'
  --node=ARGS     more arguments for its node, such as --node='--cpu-prof --cpu-prof-dir=/tmp/profiles'
  --peer CMD      run another server of the v2 API in turns with ours, and show ours/peer
  --memory        instead: the memory that 4 uploads and 4 downloads of 1 GiB take at once (with --stores file, s3;
                  --sizes for other sizes; needs 8 times that size in the directory for temporary files)
  --json FILE     write the JSON lines into a file, too
  --help

CMD is a command line for /bin/sh; {port} in it becomes the port to listen on, {store} memory, file or s3. Without
{store} it runs beside s3 only. It finds AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
BUCKET in its environment, the bucket being its own. A peer that cannot run with a store is left out there.

  npm run bench -- --stores s3 --sizes 200kB,1MiB --rounds 5 --peer 'the-other-server -driver {store} -port {port}'

The load generator and the S3 server are built by \`npm run components\`, which needs Go.
`;

/** Throws an Error that says what is wrong with the arguments. */
export function readOptions(args) {
  const text = { type: 'string' };
  const yes = { type: 'boolean', default: false };
  const { values } = parseArgs({
    args,
    options: {
      stores: text,
      sizes: text,
      only: text,
      clients: text,
      count: text,
      rounds: text,
      serve: text,
      node: text,
      peer: text,
      json: text,
      quick: yes,
      memory: yes,
      help: yes,
    },
  });
  const { quick, memory, peer, json, help } = values;
  const sizes = (values.sizes ?? (memory ? '1GiB' : '200kB,1MiB,64MiB')).split(',').map(readSize);
  return {
    stores: readList('--stores', values.stores, memory ? ['file', 's3'] : allStores, allStores),
    sizes,
    only: readList('--only', values.only, allPhases, allPhases),
    clients: readCount('--clients', values.clients),
    count: readCount('--count', values.count),
    rounds: readCount('--rounds', values.rounds) ?? (peer !== undefined && !quick ? 3 : 1),
    serve: words(values.serve),
    node: words(values.node),
    peer,
    json,
    quick,
    memory,
    help,
  };
}

function words(text) {
  return text?.split(/\s+/).filter(Boolean) ?? [];
}

const units = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

export function readSize(name) {
  const [, digits, unit] = /^(\d+)([kKMG]?i?B)$/.exec(name.trim()) ?? [];
  const bytes = Number(digits) * units[unit];
  // lpsbench writes the number of a blob into its first eight bytes
  if (Number.isNaN(bytes) || bytes < 8) throw new Error(`--sizes: ${name} is not a size such as 200kB, 1MiB, 64MiB`);
  return { name: name.trim(), bytes };
}

function readList(option, given, defaults, allowed) {
  const list = given?.split(',').map((item) => item.trim()) ?? defaults;
  const unknown = list.find((item) => !allowed.includes(item));
  if (unknown !== undefined) throw new Error(`${option}: ${unknown} is not one of ${allowed.join(', ')}`);
  return list;
}

function readCount(option, given) {
  if (given !== undefined && !/^[1-9]\d{0,6}$/.test(given))
    throw new Error(`${option}: ${given} is not a whole number`);
  return given === undefined ? undefined : Number(given);
}
