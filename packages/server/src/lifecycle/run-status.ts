import proto from '@temporalio/proto';

const { WorkflowExecutionStatus: Status } = proto.temporal.api.enums.v1;

/** Others, also those that are not known, may go on. */
const closed = new Set<number>([
  Status.WORKFLOW_EXECUTION_STATUS_COMPLETED,
  Status.WORKFLOW_EXECUTION_STATUS_FAILED,
  Status.WORKFLOW_EXECUTION_STATUS_CANCELED,
  Status.WORKFLOW_EXECUTION_STATUS_TERMINATED,
  Status.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW,
  Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT,
]);

/** Whether a run of this `WorkflowExecutionStatus` never changes again. */
export function isClosedStatus(status: number | null | undefined): boolean {
  return closed.has(status ?? 0);
}
