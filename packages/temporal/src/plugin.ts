import { ClaimCheck, LpsError, openHttpStore, serializedPayloadSize, systemClock } from '@large-payload/core';
import {
  type DataConverter,
  ExternalStorage,
  type Payload,
  type PayloadCodec,
  type StorageDriver,
  type StorageDriverTargetInfo,
} from '@temporalio/common';
import type { Backend } from './backend.js';
import { defaultMinBytes, LargePayloadCodec } from './codec.js';
import { CodecChain, encodeThrough } from './codec-chain.js';
import { LargePayloadDriver } from './driver.js';
import {
  type ActivityOwner,
  type HeartbeatInterceptorFactory,
  type HeartbeatStore,
  heartbeatInterceptor,
  serializationContextOf,
} from './heartbeats.js';
import { Outage } from './outage.js';
import { PluginDriver, selectorOver } from './plugin-driver.js';
import { ClaimReader } from './temporal-claims.js';

/** What stays in the history in place of a large payload: `codec` a claim of the Go codec, `driver` an External Storage reference. */
export type PluginMode = 'codec' | 'driver';

export type LargePayloadPluginOptions = Exclude<Backend, { readonly claimCheck: ClaimCheck }> & {
  /**
   * `codec` (default) works with every installation of the SDK and shares histories with workers that use the Go codec.
   * `driver` is Temporal's own way: the Web UI shows sizes. It needs `protobufjs` 8 in the application. It also reads
   * what `codec` wrote.
   */
  readonly mode?: PluginMode;
  /** The Temporal namespace under which blobs are kept. Default: that of each client and worker. */
  readonly namespace?: string;
  /**
   * Payloads whose serialized form is larger are offloaded. Default 128,000. In mode `driver`, the threshold of an
   * `ExternalStorage` of the user's own stays as it is.
   */
  readonly minBytes?: number;
  /**
   * While the store can't be reached, payloads of fewer bytes stay inline instead of failing. 0: none does. Default
   * 262,144, which is what the SDK's own External Storage leaves inline at all times: far from the 2 MB that Temporal
   * takes, and 15 of them still fit into one message of 4 MB.
   */
  readonly inlineBelowBytes?: number;
  /** In mode `driver`: written into every reference, which only a driver of this name can resolve. Default `large-payload`. */
  readonly driverName?: string;
  /** Reads everything and stores nothing: for the first step of a roll-out, and for the way back. */
  readonly decodeOnly?: boolean;
  /** Drivers for references from before (`temporalS3Claims`, or any other driver): nothing is stored with them. */
  readonly readOnlyDrivers?: readonly StorageDriver[];
};

const defaultInlineBelowBytes = 256 * 1024;

/** What is changed in the options of clients, workers and replayers; whatever else they hold stays. */
interface Configurable {
  readonly dataConverter?: DataConverter;
  readonly namespace?: string;
}

interface ConfigurableWorker extends Configurable {
  readonly interceptors?: { readonly activity?: readonly unknown[] };
}

/**
 * Large payloads for a whole application: the same object goes to clients, workers, replayers, test environments,
 * connections and the bundler.
 *
 *     const plugin = new LargePayloadPlugin({ url: 'http://127.0.0.1:8577' });
 *     const client = new Client({ connection, plugins: [plugin] });
 *     const worker = await Worker.create({ taskQueue, workflowsPath, activities, plugins: [plugin] });
 *
 * The data converter of the user stays: converters by path as they are; codecs run before ours, so that it sees what is
 * compressed and encrypted; drivers stay, and so does what their selector chooses. Options that already have this
 * plugin's parts (from the connection, or from a worker to its own client) are left as they are.
 *
 * It has nothing for workflow code: no interceptor, no module, so that nothing of it gets into a workflow bundle.
 *
 * Structurally a `ClientPlugin`, `WorkerPlugin`, `BundlerPlugin`, `ConnectionPlugin` and `NativeConnectionPlugin`; a
 * client needs no @temporalio/worker for it.
 */
export class LargePayloadPlugin {
  readonly name = 'large-payload';
  /** In mode `driver`: for a selector of the user's own to return. */
  readonly driver: StorageDriver | undefined;
  /** For what is done by hand: the plugin's own, so that it shares cache and circuit. */
  readonly claimCheck: ClaimCheck;
  readonly #options: LargePayloadPluginOptions;
  readonly #driver: PluginDriver | undefined;
  readonly #outage: Outage;
  readonly #minBytes: number;
  readonly #close: () => Promise<void>;
  /** By namespace; `undefined` for those that only read. */
  readonly #codecs = new Map<string | undefined, LargePayloadCodec>();
  /** Codecs and storages that are ours: options that hold one have been configured. */
  readonly #ours = new WeakSet<object>();
  #namespace: string | undefined;

  /** Makes no request. Throws CONFIG_INVALID, in mode `driver` also when references cannot be encoded (protobufjs-check.ts). */
  constructor(options: LargePayloadPluginOptions) {
    const { mode = 'codec', minBytes = defaultMinBytes, inlineBelowBytes = defaultInlineBelowBytes } = options;
    if (mode !== 'codec' && mode !== 'driver') {
      throw new LpsError('CONFIG_INVALID', '`mode` must be `codec` or `driver`');
    }
    this.#options = options;
    this.#minBytes = minBytes;
    this.#namespace = options.namespace;
    this.#outage = new Outage({ inlineBelowBytes, clock: options.clock ?? systemClock });
    const { claimCheck, close } = openWatched(options, this.#outage);
    this.claimCheck = claimCheck;
    this.#close = close;
    this.#codecFor(options.namespace); // so that wrong options are refused here
    if (mode === 'driver') {
      const { driverName: name = 'large-payload' } = options;
      const driver = new LargePayloadDriver({ claimCheck, name });
      this.#driver = new PluginDriver(driver, this.#outage, () => this.#namespace ?? 'default');
    }
    this.driver = this.#driver;
  }

  /** For clients. */
  configureClient<Options extends Configurable>(options: Options): Options {
    if (this.#hasOurs(options.dataConverter)) return options;
    const codecs = [...(options.dataConverter?.payloadCodecs ?? []), this.#writingCodec(options.namespace)];
    return this.#configured(options, codecs, this.#storage(options.dataConverter?.externalStorage));
  }

  /** For workers: as for clients, and with the interceptor that stores the details of heartbeats. */
  configureWorker<Options extends ConfigurableWorker>(options: Options): Options {
    if (this.#hasOurs(options.dataConverter)) return options;
    const theirs = options.dataConverter?.payloadCodecs ?? [];
    const codec = this.#writingCodec(options.namespace);
    const chain = new CodecChain([...theirs, codec]);
    this.#ours.add(chain);
    const storage = this.#storage(options.dataConverter?.externalStorage);
    const interceptor = heartbeatInterceptor(this.#heartbeatStore(theirs, codec, chain, storage));
    const activity: HeartbeatInterceptorFactory[] = [interceptor];
    return {
      ...this.#configured(options, [chain], storage),
      interceptors: {
        ...options.interceptors,
        activity: [...(options.interceptors?.activity ?? []), ...activity],
      },
    };
  }

  /** For replayers: everything can be read and nothing is stored, for a replay must not have effects. */
  configureReplayWorker<Options extends Configurable>(options: Options): Options {
    if (this.#hasOurs(options.dataConverter)) return options;
    const codecs = [...(options.dataConverter?.payloadCodecs ?? []), this.#codecFor(undefined)];
    const storage = this.#storage(options.dataConverter?.externalStorage, () => null);
    return this.#configured(options, codecs, storage);
  }

  /** Lets go of the connections to `url`; a `store` that was given stays open. */
  close(): Promise<void> {
    return this.#close();
  }

  #hasOurs(converter: DataConverter | undefined): boolean {
    return [...(converter?.payloadCodecs ?? []), converter?.externalStorage].some(
      (part) => part !== undefined && this.#ours.has(part),
    );
  }

  #configured<Options extends Configurable>(
    options: Options,
    payloadCodecs: PayloadCodec[],
    externalStorage: ExternalStorage | undefined,
  ): Options {
    const dataConverter: DataConverter = {
      ...options.dataConverter,
      payloadCodecs,
      ...(externalStorage === undefined ? {} : { externalStorage }),
    };
    return { ...options, dataConverter };
  }

  /** The codec of clients and workers. In mode `driver` it only reads what mode `codec` wrote. */
  #writingCodec(namespace = 'default'): LargePayloadCodec {
    const own = this.#options.namespace ?? namespace;
    this.#namespace ??= own;
    const reads = this.#driver !== undefined || this.#options.decodeOnly === true;
    return this.#codecFor(reads ? undefined : own);
  }

  #codecFor(namespace: string | undefined): LargePayloadCodec {
    const made = this.#codecs.get(namespace);
    if (made !== undefined) return made;
    const codec = new LargePayloadCodec({
      claimCheck: this.claimCheck,
      namespace: namespace ?? 'default',
      decodeOnly: namespace === undefined,
      minBytes: this.#minBytes,
      outage: this.#outage,
    });
    this.#codecs.set(namespace, codec);
    this.#ours.add(codec);
    return codec;
  }

  /** Theirs, ours in mode `driver`, and those that only read. `undefined` when there is nothing to add to theirs. */
  #storage(
    theirs: ExternalStorage | undefined,
    selector?: ConstructorParameters<typeof ExternalStorage>[0]['driverSelector'],
  ): ExternalStorage | undefined {
    const { decodeOnly = false, readOnlyDrivers = [] } = this.#options;
    const ours = this.#driver;
    const theirDrivers = theirs?.drivers ?? [];
    const added = [...(ours ? [ours] : []), ...readOnlyDrivers].filter((driver) => !theirDrivers.includes(driver));
    const readsOnly = (driver: StorageDriver): boolean =>
      driver instanceof ClaimReader || readOnlyDrivers.includes(driver) || (decodeOnly && driver === ours);
    const drivers = [...theirDrivers, ...added];
    const mayStay = added.length === 0 && selector === undefined && !theirDrivers.some(readsOnly);
    if (drivers.length === 0 || mayStay) return undefined;
    const storage = new ExternalStorage({
      drivers,
      driverSelector:
        selector ?? (ours && !decodeOnly ? selectorOver(ours, theirs, readsOnly) : selectorAmong(theirs, readsOnly)),
      // the SDK stores what is as large as the threshold, the codec what is larger
      payloadSizeThreshold: theirs?.payloadSizeThreshold ?? this.#minBytes + 1,
    });
    this.#ours.add(storage);
    return storage;
  }

  #heartbeatStore(
    theirs: readonly PayloadCodec[],
    codec: LargePayloadCodec,
    chain: CodecChain,
    storage: ExternalStorage | undefined,
  ): HeartbeatStore {
    const threshold = Math.min(this.#minBytes, storage?.payloadSizeThreshold ?? Number.MAX_SAFE_INTEGER);
    return {
      mayNeedStorage: (payload) => theirs.length > 0 || serializedPayloadSize(payload) >= threshold,
      prepare: async (payload, owner) => {
        let encoded: Payload[];
        try {
          encoded = await encodeThrough(theirs, [payload], serializationContextOf(owner));
        } catch {
          return; // the SDK meets the same failure of their codec, and does what it does without us
        }
        const [stored] = await codec.encode(encoded);
        if (stored === undefined) return;
        if (storage !== undefined) await this.#driver?.prepare(storage, stored, targetOf(owner));
        chain.remember(payload, stored);
      },
    };
  }
}

/** Nothing is stored with a driver that only reads. */
function selectorAmong(
  theirs: ExternalStorage | undefined,
  readsOnly: (driver: StorageDriver) => boolean,
): ExternalStorage['driverSelector'] {
  return (context, payload) => {
    const chosen = theirs?.driverSelector(context, payload) ?? null;
    return chosen === null || readsOnly(chosen) ? null : chosen;
  };
}

function openWatched(
  options: LargePayloadPluginOptions,
  outage: Outage,
): { claimCheck: ClaimCheck; close: () => Promise<void> } {
  if ((options.url === undefined) === (options.store === undefined)) {
    throw new LpsError('CONFIG_INVALID', 'give exactly one of the options `url` and `store`');
  }
  const opened = options.store === undefined ? openHttpStore(options) : undefined;
  const store = options.store ?? opened;
  if (store === undefined) throw new LpsError('CONFIG_INVALID', 'the option `store` is empty');
  const { namespace, ...tuning } = options;
  return {
    claimCheck: new ClaimCheck({
      ...tuning,
      ...(namespace === undefined ? {} : { namespace }),
      store: outage.watch(store),
    }),
    close: async () => opened?.close?.(),
  };
}

/** As the SDK makes it for heartbeats and results: what an activity of a workflow stores belongs to the workflow. */
function targetOf(owner: ActivityOwner): StorageDriverTargetInfo {
  const { namespace, workflowExecution, workflowType, activityId, activityType, activityRunId } = owner;
  if (workflowExecution === undefined) {
    const run = activityRunId === undefined ? {} : { runId: activityRunId };
    return { kind: 'activity', namespace, id: activityId, type: activityType, ...run };
  }
  const { workflowId: id, runId } = workflowExecution;
  return { kind: 'workflow', namespace, id, runId, ...(workflowType === undefined ? {} : { type: workflowType }) };
}
