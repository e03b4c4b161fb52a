import { BatchPriority, type SubmitBatchRequest } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType, type MessageDraft, type TemplateUse } from '../../gen/sendbatch/v1/message_pb.ts';
import { type RequestTemplate, type SendBatchRequest, SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { TemplateFormat } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { limits } from '../limits.ts';
import { isJoined, personType } from '../messages/channel.ts';
import { PlainMessage } from '../messages/plain-message.ts';

const modes: ReadonlySet<number> = new Set(Object.values(SendMode));
const priorities: ReadonlySet<number> = new Set(Object.values(BatchPriority));
/** The highest channel type of the proto. */
export const lastChannelType = Math.max(...Object.values(ChannelType).filter((each) => typeof each === 'number'));
const templateName = /^[A-Za-z0-9._-]{1,128}$/;
const requestTemplates = 100;
const formats: ReadonlySet<number> = new Set(Object.values(TemplateFormat).filter((each) => typeof each === 'number'));
/** Byte limit of stream_no, tag_key and batch names. */
const labelBytes = 128;

/**
 * Whether a batch certainly keeps all rules of the proto; false: protovalidate decides.
 *
 * Protovalidate takes 10 µs per message, a third of the service's whole time for one; this check
 * takes 0.07 µs. It names no violation. Batches with conditions, which are rare, also go to
 * protovalidate. A property test compares both.
 */
export function isDefinitelyValid(request: SendBatchRequest): boolean {
  const { messages, mode, requestId, expectedLastSeqs } = request;
  return (
    messages.length > 0 &&
    messages.length <= limits.batchMessages &&
    modes.has(mode) &&
    fitsBytes(requestId, limits.requestIdBytes) &&
    expectedLastSeqs.length === 0 &&
    request.templates.length <= requestTemplates &&
    request.templates.every(isRequestTemplate) &&
    messages.every((draft) => isPlain(draft) || (draft.sendAt === undefined && isDefinitelyValidDraft(draft)))
  );
}

/** The same for a submitted batch: protovalidate would take a second for the largest. */
export function isDefinitelySubmittable(request: SubmitBatchRequest): boolean {
  const { messages, priority, requestId, name, templates } = request;
  return (
    messages.length > 0 &&
    messages.length <= limits.submitMessages &&
    priorities.has(priority) &&
    fitsBytes(requestId, limits.requestIdBytes) &&
    fitsBytes(name, labelBytes) &&
    templates.length <= requestTemplates &&
    templates.every(isRequestTemplate) &&
    messages.every(isDefinitelyValidDraft)
  );
}

/** Whether one message certainly keeps its own rules. */
export function isDefinitelyValidDraft(draft: MessageDraft): boolean {
  const { header, payload, subscribers, template } = draft;
  return (
    fitsBytes(draft.clientMsgNo, limits.clientMsgNoBytes) &&
    draft.fromUid !== '' &&
    fitsBytes(draft.fromUid, limits.idBytes) &&
    isChannel(draft) &&
    (template === undefined ? payload.length > 0 : payload.length === 0 && isTemplate(template)) &&
    payload.length <= limits.payloadBytes &&
    (header === undefined || (header.noPersist <= 1 && header.redDot <= 1 && header.syncOnce <= 1)) &&
    fitsBytes(draft.streamNo, labelBytes) &&
    fitsBytes(draft.tagKey, labelBytes) &&
    subscribers.length <= limits.messageSubscribers &&
    subscribers.every((uid) => uid !== '' && fitsBytes(uid, limits.idBytes))
  );
}

/** Whether a decoder has checked the rules already. */
function isPlain(draft: unknown): boolean {
  return draft instanceof PlainMessage;
}

function isRequestTemplate({ name, body, format }: RequestTemplate): boolean {
  return templateName.test(name) && body !== '' && fitsBytes(body, limits.templateBytes) && formats.has(format);
}

function isTemplate({ name, version }: TemplateUse): boolean {
  return templateName.test(name) && version <= 2 ** 31 - 1;
}

function isChannel({ channelId, channelType, fromUid, header, subscribers }: MessageDraft): boolean {
  if (!Number.isInteger(channelType) || channelType < 0 || channelType > lastChannelType) return false;
  if (channelId === '') {
    if (header?.syncOnce !== 1 || subscribers.length === 0) return false;
  } else if (channelType === 0) return false;
  if (!fitsBytes(channelId, limits.idBytes) || channelId.includes('#') || channelId.includes('&')) return false;
  if (channelType === personType && /[@#&]/.test(fromUid)) return false;
  const at = channelId.indexOf('@');
  if (at === -1) return channelId === '' || channelType === personType || !isJoined(channelType);
  if (!isJoined(channelType)) return false;
  if (at === 0 || at === channelId.length - 1 || channelId.includes('@', at + 1)) return false;
  return channelType !== personType || channelId.startsWith(`${fromUid}@`) || channelId.endsWith(`@${fromUid}`);
}

/**
 * Whether a text has at most this many bytes of UTF-8 and no U+0000. One UTF-16 unit takes at most
 * three bytes, so most texts need no measuring.
 */
function fitsBytes(text: string, bytes: number): boolean {
  return (text.length * 3 <= bytes || Buffer.byteLength(text) <= bytes) && !text.includes('\0');
}
