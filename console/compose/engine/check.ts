import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema } from '../../../gen/client/google/rpc/error_details_pb.ts';
import type { MessageDraft, Refusal } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import type { MessageService, RequestTemplate } from '../../../gen/client/sendbatch/v1/message_service_pb.ts';
import { createRetry } from '../../../src/client/retry.ts';
import type { Problem } from '../files/problem.ts';

type Rpc = Client<typeof MessageService>;

/** Limits of one call: 1,000 messages, and far less than 16 MiB. */
const [callMessages, callBytes] = [1000, 4 * 1024 * 1024];
const messageBytes = 200;

/** A message to check, and its row. */
export interface Checked {
  readonly row: number;
  readonly draft: MessageDraft;
}

export interface CheckOptions {
  readonly templates: readonly Pick<RequestTemplate, 'name' | 'body' | 'format'>[];
  readonly signal: AbortSignal;
  /** Called with a message that the service would not accept. */
  readonly onProblem: (row: number, problem: Problem, isMalformed: boolean) => void;
  readonly onProgress: (checked: number) => void;
}

/** Asks the service about each message, without sending any (`validate_only`). */
export async function checkMessages(rpc: Rpc, messages: Iterable<Checked>, options: CheckOptions): Promise<void> {
  const retry = createRetry({ attempts: 8, patienceMs: 60_000 });
  let checked = 0;
  for (const call of callsOf(messages)) {
    await checkCall(rpc, call, options, retry.begin(options.signal));
    checked += call.length;
    options.onProgress(checked);
  }
}

async function checkCall(
  rpc: Rpc,
  call: readonly Checked[],
  options: CheckOptions,
  retries: ReturnType<ReturnType<typeof createRetry>['begin']>,
): Promise<void> {
  let left = call;
  while (left.length > 0) {
    try {
      // A check is about sending now: SendBatch refuses messages with a time.
      const drafts = left.map(({ draft }) => ({ ...draft, sendAt: undefined }));
      const { results } = await rpc.sendBatch(
        { messages: drafts as MessageDraft[], validateOnly: true, templates: [...options.templates] },
        { signal: options.signal },
      );
      // What a retry fixes, such as a rate limit, is no problem of the message.
      for (const [index, { error }] of results.entries())
        if (error !== undefined && error.retryAfter === undefined)
          options.onProblem(left[index]?.row ?? 0, refusalProblem(error), false);
      return;
    } catch (error) {
      const malformed = malformedIn(error);
      if (malformed.size === 0) {
        await retries.after(error);
        continue;
      }
      for (const [index, problem] of malformed) {
        const each = left[index];
        if (each !== undefined) options.onProblem(each.row, problem, true);
      }
      left = left.filter((_, index) => !malformed.has(index));
    }
  }
}

function refusalProblem({ reason, message }: Refusal): Problem {
  return { code: 'refused', values: { reason, text: message } };
}

/** The messages that make a whole call invalid, by index. */
function malformedIn(thrown: unknown): Map<number, Problem> {
  const error = ConnectError.from(thrown);
  const found = new Map<number, Problem>();
  if (error.code !== Code.InvalidArgument) return found;
  for (const { fieldViolations } of error.findDetails(BadRequestSchema))
    for (const { field, description } of fieldViolations) {
      const [, index, name = ''] = /^messages\[(\d+)\]\.?(.*)$/.exec(field) ?? [];
      if (index === undefined || found.has(Number(index))) continue;
      found.set(Number(index), {
        code: 'refused',
        values: { reason: 'INVALID_FIELD', field: name, text: `${name} ${description}`.trim() },
      });
    }
  return found;
}

function* callsOf(messages: Iterable<Checked>): Generator<Checked[]> {
  let call: Checked[] = [];
  let bytes = 0;
  for (const each of messages) {
    const size = sizeOf(each.draft);
    if (call.length === callMessages || (call.length > 0 && bytes + size > callBytes)) {
      yield call;
      call = [];
      bytes = 0;
    }
    call.push(each);
    bytes += size;
  }
  if (call.length > 0) yield call;
}

/** Estimates the bytes of a message in a call. */
function sizeOf({ payload, template }: MessageDraft): number {
  let bytes = messageBytes + payload.length;
  for (const [name, value] of Object.entries(template?.variables ?? {}))
    bytes += name.length + 8 + (typeof value === 'string' ? value.length * 3 : 8);
  return bytes;
}
