/**
 * Answers with all that the server has put into them. A newer server may write fields that the SDK's descriptors do not
 * have, and a claim may be in one of them. The SDK's own readers drop those; protobufjs keeps them when its reader is told
 * to, as bytes in `$unknowns` of the message that they stand in, and of those inside it.
 */
import { createRequire } from 'node:module';
import proto, { type temporal } from '@temporalio/proto';
import type protobuf from 'protobufjs';

type Service = temporal.api.workflowservice.v1.WorkflowService;
type Ask<Request, Answer> = readonly [request: Request, answer: Answer];

/** Those whose answers are searched for claims. */
interface Asked {
  DescribeWorkflowExecution: Ask<
    temporal.api.workflowservice.v1.IDescribeWorkflowExecutionRequest,
    temporal.api.workflowservice.v1.DescribeWorkflowExecutionResponse
  >;
  GetWorkflowExecutionHistoryReverse: Ask<
    temporal.api.workflowservice.v1.IGetWorkflowExecutionHistoryReverseRequest,
    temporal.api.workflowservice.v1.GetWorkflowExecutionHistoryReverseResponse
  >;
  DescribeSchedule: Ask<
    temporal.api.workflowservice.v1.IDescribeScheduleRequest,
    temporal.api.workflowservice.v1.DescribeScheduleResponse
  >;
}

// the copy that decodes the SDK's messages: a reader of another one is none to it
const besideProto = createRequire(createRequire(import.meta.url).resolve('@temporalio/proto'));
const { Reader } = besideProto('protobufjs/light') as typeof protobuf;
const service = (proto as unknown as protobuf.Root).lookupService('temporal.api.workflowservice.v1.WorkflowService');

/** As the service's own method of that name, which throws what gRPC throws. */
export async function askWhole<Method extends keyof Asked>(
  { rpcImpl }: Service,
  name: Method,
  request: Asked[Method][0],
): Promise<Asked[Method][1]> {
  const method = service.methods[name]?.resolve() as protobuf.Method;
  const { resolvedRequestType: asked, resolvedResponseType: answered } = method;
  if (asked === null || answered === null || rpcImpl === null) throw new Error(`${name} cannot be called`);
  const bytes = await new Promise<Uint8Array>((resolve, reject) => {
    rpcImpl(method, asked.encode(request).finish(), (error, answer) => {
      if (error !== null || answer == null) reject(error);
      else resolve(answer);
    });
  });
  const reader = Reader.create(bytes);
  reader.discardUnknown = false;
  return answered.decode(reader) as unknown as Asked[Method][1];
}

/** Of a message that was read so; each with its tag. */
export function unknownFieldsOf(message: object | null | undefined): readonly Uint8Array[] {
  const fields = message == null ? undefined : (message as { readonly $unknowns?: readonly Uint8Array[] }).$unknowns;
  return fields ?? [];
}
