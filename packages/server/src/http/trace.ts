/**
 * W3C trace context: taken from each request, put on its log lines, and passed on to an upstream service. With an
 * OpenTelemetry SDK in the process (the operator's choice) requests and store calls are spans as well.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { context, propagation, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';

interface TraceContext {
  readonly traceparent?: string;
  readonly tracestate?: string;
}

const current = new AsyncLocalStorage<TraceContext>();
const tracer = trace.getTracer('large-payload-service');
const traceparentPattern = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Runs what follows inside the trace of a request. */
export function withTraceOf(request: IncomingMessage, run: () => void): void {
  const { traceparent, tracestate } = request.headers;
  const isValid = typeof traceparent === 'string' && traceparentPattern.test(traceparent);
  const own: TraceContext = isValid ? { traceparent, ...(typeof tracestate === 'string' ? { tracestate } : {}) } : {};
  const extracted = propagation.extract(context.active(), request.headers);
  context.with(extracted, () => current.run(own, run));
}

/** The trace id that a request came with, for its log lines. */
export function traceIdOf(headers: IncomingHttpHeaders): string | undefined {
  return typeof headers.traceparent === 'string' ? traceparentPattern.exec(headers.traceparent)?.[1] : undefined;
}

/** Headers that carry the current trace to an upstream. */
export function traceHeaders(): Record<string, string> {
  const carrier: Record<string, string> = {};
  propagation.inject(context.active(), carrier);
  return Object.keys(carrier).length > 0 ? carrier : { ...current.getStore() };
}

/** Runs a call inside a span, which carries the error when it fails. */
export function inSpan<T>(name: string, attributes: Record<string, string>, run: () => Promise<T>): Promise<T> {
  return tracer.startActiveSpan(name, { attributes, kind: SpanKind.INTERNAL }, async (span: Span) => {
    try {
      return await run();
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: String((error as Error).message) });
      throw error;
    } finally {
      span.end();
    }
  });
}
