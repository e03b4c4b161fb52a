import { pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator, type Violation } from '@bufbuild/protovalidate';
import { ChannelTypeSchema, type MessageDraft, MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import { channelTypes } from '../../message-files/channel-types.ts';
import { createDraftReader } from '../../message-files/draft-reader.ts';
import type { Columns, Mapping } from '../../message-files/mapping.ts';
import { violationMessage } from '../../rpc/validation-messages.ts';
import type { Entry } from './source.ts';

const validator = createValidator();

/**
 * Converts entries to messages; a string says why an entry is invalid. Checked here, because one
 * invalid message would make its whole call invalid.
 */
export function createDrafts(mapping: Mapping): (entry: Entry, columns: Columns) => MessageDraft | string {
  const read = createDraftReader(mapping);
  return ({ content }, columns) => {
    if ('fault' in content) return content.fault;
    const draft = read(content, columns);
    if (typeof draft === 'string') return draft;
    const result = validator.validate(MessageDraftSchema, draft);
    if (result.kind === 'valid') return draft;
    if (result.kind === 'error') return result.error.message;
    return result.violations
      .map((each) => `${pathToString(each.field) || each.ruleId.split('.', 1)[0]} ${words(each)}`)
      .join('; ');
  };
}

function words({ ruleId, message, field }: Violation): string {
  const values = field.some((step) => step.kind === 'field' && step.enum?.typeName === ChannelTypeSchema.typeName)
    ? channelTypes
    : [];
  return violationMessage({ id: ruleId, ownText: message, values });
}
