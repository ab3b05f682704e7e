/** Between a gRPC client and a real server: counts calls, keeps those with a wrong key out, answers some with a failure. */
import { once } from 'node:events';
import http2 from 'node:http2';
import type { AddressInfo } from 'node:net';
import proto from '@temporalio/proto';

export interface GrpcAnswer {
  readonly status: number;
  readonly message?: string;
  /** The trailer `grpc-status-details-bin`. */
  readonly details?: Uint8Array;
}

/** `never`: no answer comes. `cut`: the connection is broken. Bytes: another message than the server's. */
export type GrpcFault = GrpcAnswer | 'never' | 'cut' | Uint8Array;

export interface GrpcProxyOptions {
  /** The client must speak TLS then. PEM. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** What `authorization` must be, at that time. */
  readonly authorization?: () => string;
}

export interface GrpcProxy {
  /** `127.0.0.1:PORT` */
  readonly address: string;
  /** Methods that were called, in order: `ListSchedules`. */
  readonly calls: string[];
  /** Instead of the server's answer; asked at each call that is let in. */
  fault: ((method: string) => GrpcFault | undefined) | undefined;
  close(): Promise<void>;
}

const unauthenticated = 16;
const notFoundStatus = 5;
const { NotFoundFailure, NamespaceNotFoundFailure } = proto.temporal.api.errordetails.v1;

/** As Temporal says it of an id. With clusters: not found in the current one, another is the active one. */
export function notFound(clusters: { currentCluster?: string; activeCluster?: string } = {}): GrpcAnswer {
  const detail = NotFoundFailure.encode(clusters).finish();
  return withDetail({ status: notFoundStatus, message: 'not here' }, 'NotFoundFailure', detail);
}

/** As Temporal says it of a namespace. */
export function namespaceNotFound(namespace: string): GrpcAnswer {
  const detail = NamespaceNotFoundFailure.encode({ namespace }).finish();
  return withDetail({ status: notFoundStatus, message: 'no such namespace' }, 'NamespaceNotFoundFailure', detail);
}

function withDetail(answer: GrpcAnswer, typeName: string, value: Uint8Array): GrpcAnswer {
  const type_url = `type.googleapis.com/temporal.api.errordetails.v1.${typeName}`;
  const { status: code, message = '' } = answer;
  return {
    ...answer,
    details: proto.google.rpc.Status.encode({ code, message, details: [{ type_url, value }] }).finish(),
  };
}

export async function startGrpcProxy(target: string, options: GrpcProxyOptions = {}): Promise<GrpcProxy> {
  let upstream = connectTo(target);
  // a server ends each connection after some minutes
  const connected = (): http2.ClientHttp2Session => {
    if (upstream.closed || upstream.destroyed) upstream = connectTo(target);
    return upstream;
  };
  const { tls, authorization } = options;
  const server = tls === undefined ? http2.createServer() : http2.createSecureServer(tls);
  const sessions = new Set<http2.ServerHttp2Session>();
  const calls: string[] = [];
  const proxy: GrpcProxy = {
    address: '',
    calls,
    fault: undefined,
    async close() {
      for (const session of sessions) session.destroy();
      upstream.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  server.on('session', (session) => {
    sessions.add(session);
    session.on('error', () => undefined).once('close', () => sessions.delete(session));
  });
  server.on('stream', (stream, headers) => {
    stream.on('error', () => undefined);
    if (authorization !== undefined && headers.authorization !== authorization())
      return answer(stream, { status: unauthenticated, message: 'no such key' });
    const method = `${headers[':path']}`.replace(/^.*\//, '');
    calls.push(method);
    const fault = proxy.fault?.(method);
    if (fault === 'never') return stream.resume();
    if (fault instanceof Uint8Array) return answerWith(stream, fault);
    if (fault === 'cut') return stream.session?.destroy();
    if (fault !== undefined) return answer(stream, fault);
    forward(connected(), stream, headers);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(proxy, { address: `127.0.0.1:${(server.address() as AddressInfo).port}` });
}

function connectTo(target: string): http2.ClientHttp2Session {
  const session = http2.connect(`http://${target}`);
  session.on('error', () => undefined);
  return session;
}

/** Headers alone: a call that failed before it gave anything. */
function answer(stream: http2.ServerHttp2Stream, { status, message = 'a fault', details }: GrpcAnswer): void {
  stream.resume();
  stream.respond(
    {
      ':status': 200,
      'content-type': 'application/grpc',
      'grpc-status': `${status}`,
      'grpc-message': encodeURIComponent(message),
      ...(details === undefined ? {} : { 'grpc-status-details-bin': Buffer.from(details).toString('base64') }),
    },
    { endStream: true },
  );
}

/** Before a message stand five bytes: not compressed, and how long it is. */
function answerWith(stream: http2.ServerHttp2Stream, message: Uint8Array): void {
  stream.resume();
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.once('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  stream.end(Buffer.concat([head, message]));
}

function forward(
  upstream: http2.ClientHttp2Session,
  stream: http2.ServerHttp2Stream,
  headers: http2.IncomingHttpHeaders,
): void {
  const { ':authority': _authority, ':scheme': _scheme, host: _host, ...others } = headers;
  const onward = upstream.request(others);
  onward.on('error', () => stream.destroy());
  stream.pipe(onward);
  // whoever asked has given up
  stream.once('close', () => onward.close(http2.constants.NGHTTP2_CANCEL));
  let trailers: http2.IncomingHttpHeaders = {};
  onward.on('trailers', (received) => {
    trailers = received;
  });
  onward.on('response', (received, flags) => {
    if (stream.destroyed) return;
    const isAll = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0;
    const { ':status': status, ...rest } = received;
    stream.respond({ ':status': status ?? 502, ...rest }, isAll ? { endStream: true } : { waitForTrailers: true });
    if (isAll) return;
    stream.once('wantTrailers', () => stream.sendTrailers(trailers));
    onward.pipe(stream);
  });
}
