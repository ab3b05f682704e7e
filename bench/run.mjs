// npm run bench: see options.mjs for what it takes.
import { writeFileSync } from 'node:fs';
import { requireOrSkip, startVersitygw } from './components.mjs';
import { runLoad } from './load.mjs';
import { runMemory } from './memory.mjs';
import { help, readOptions } from './options.mjs';
import { startOurs, startPeer } from './servers.mjs';
import { comparison, summary } from './table.mjs';

const MiB = 2 ** 20;
/** Half of the default memory cache, so that these blobs surely fit. */
const hotBytes = 32 * MiB;
const results = [];

try {
  const options = readOptions(process.argv.slice(2));
  if (options.help) console.log(help);
  else await run(options);
  // nothing that was started keeps this process alive, but kept connections of fetch would for some seconds
  process.exit();
} catch (error) {
  process.stderr.write(`bench: ${error.message}\n`);
  process.exit(1);
}

async function run(options) {
  forgetSettings();
  const gateway = options.stores.includes('s3') ? await startVersitygw() : undefined;
  if (gateway === undefined) options.stores = options.stores.filter((store) => store !== 's3');
  const report = (result) => {
    results.push(result);
    console.log(JSON.stringify(result));
    if (options.json) writeFileSync(options.json, results.map((line) => `${JSON.stringify(line)}\n`).join(''));
  };
  if (options.memory) await runMemory({ ...options, gateway, report });
  else await runRounds({ ...options, gateway, report });
  await gateway?.stop();
}

async function runRounds({ stores, sizes, rounds, gateway, report, ...options }) {
  const lpsbench = requireOrSkip('lpsbench');
  if (lpsbench === undefined) return;
  const withoutPeer = new Set();
  for (let round = 1; round <= rounds; round++) {
    for (const store of stores) {
      for (const size of sizes) {
        for (const server of ['ours', ...(hasPeer(options.peer, store) ? ['peer'] : [])]) {
          if (server === 'peer' && withoutPeer.has(store)) continue;
          const started = await startServer(server, store, gateway, options, withoutPeer);
          if (started === undefined) continue;
          try {
            const load = { lpsbench, server: started, store, gatewayPid: gateway?.pid, ...loadOf(size, options) };
            const label = { server, store, size_name: size.name, round };
            const onPhase = (result) => options.only.includes(result.phase) && report({ ...label, ...result });
            await runLoad({ ...load, onPhase });
          } finally {
            await started.remove();
          }
        }
      }
    }
  }
  const ratios = comparison(results);
  console.log(['', ...summary(results), ...(ratios.length > 0 ? ['', ...ratios] : [])].join('\n'));
}

async function startServer(server, store, gateway, options, withoutPeer) {
  if (server === 'ours') return startOurs({ store, gateway, ...options });
  try {
    return await startPeer({ store, gateway, command: options.peer });
  } catch (error) {
    withoutPeer.add(store);
    console.log(`skipped: the peer with store ${store}: ${error.message.trim().split('\n').at(-1)}`);
    return undefined;
  }
}

function hasPeer(command, store) {
  return command !== undefined && (store === 's3' || command.includes('{store}'));
}

/** How many blobs by how many clients: enough to last for seconds, few enough for a small disk. */
function loadOf({ bytes }, { quick, clients, count }) {
  const totalBytes = quick ? 8 * MiB : 400e6;
  const isLarge = bytes >= 16 * MiB;
  const concurrent = clients ?? (isLarge ? 4 : 16);
  const enough = Math.min(quick ? 40 : 2000, Math.max(quick ? 4 : 12, Math.round(totalBytes / bytes)));
  const blobs = count ?? enough;
  return {
    size: bytes,
    count: blobs,
    clients: concurrent,
    hot: Math.min(blobs, Math.max(1, Math.floor(hotBytes / bytes))),
  };
}

/** The service is measured with its defaults, whatever the user's shell has set for it. */
function forgetSettings() {
  const kept = ['LPS_REQUIRE', 'LPS_TEST_CACHE'];
  for (const name of Object.keys(process.env)) {
    if (/^(LPS|AWS)_|^BUCKET$/.test(name) && !kept.includes(name)) delete process.env[name];
  }
}
