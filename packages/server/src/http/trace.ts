/**
 * W3C trace context: the trace id of each request is on its log lines. With an OpenTelemetry SDK in the process (the
 * operator's choice) calls to the store are spans of that trace, and whatever the SDK instruments passes it on.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { context, propagation, type Span, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';

const tracer = trace.getTracer('large-payload-service');
const traceparentPattern = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Runs what follows inside the trace of a request, where an OpenTelemetry SDK is loaded; nothing else costs less. */
export function withTraceOf(request: IncomingMessage, run: () => void): void {
  context.with(propagation.extract(context.active(), request.headers), run);
}

/** The trace id that a request came with, for its log lines. */
export function traceIdOf(headers: IncomingHttpHeaders): string | undefined {
  return typeof headers.traceparent === 'string' ? traceparentPattern.exec(headers.traceparent)?.[1] : undefined;
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
