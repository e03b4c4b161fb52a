// Puts messages that server/request-body has parsed in the place of Connect's placeholders.
import type { Message } from '@bufbuild/protobuf';
import { createContextKey, type Interceptor } from '@connectrpc/connect';

/** The parsed messages of a call whose placeholders Connect has not passed on yet. */
export const parsedMessagesKey = createContextKey<Message[] | undefined>(undefined, { description: 'parsed messages' });

export const parsedMessagesInterceptor: Interceptor = (next) => (request) => {
  const parsed = request.contextValues.get(parsedMessagesKey);
  if (parsed === undefined) return next(request);
  if (request.stream) return next({ ...request, message: replacePlaceholders(request.message, parsed) });
  return next({ ...request, message: nextOf(parsed) });
};

async function* replacePlaceholders(placeholders: AsyncIterable<Message>, parsed: Message[]): AsyncIterable<Message> {
  for await (const _ of placeholders) yield nextOf(parsed);
}

function nextOf(parsed: Message[]): Message {
  const message = parsed.shift();
  if (message === undefined) throw new Error('a placeholder without its message');
  return message;
}
