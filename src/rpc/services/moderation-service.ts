import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  type ModerationService,
  RuleAction,
  type Rule as RuleMessage,
  type RuleSchema,
} from '../../../gen/sendbatch/v1/moderation_service_pb.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import type { Moderation } from '../../moderation/moderation.ts';
import type { Rule } from '../../moderation/rules.ts';
import { parsePageToken } from '../page-token.ts';
import { callerOf, cancellationOf } from '../request-context.ts';

/** What ModerationService needs. */
export interface ModerationServiceParts {
  readonly moderation: Moderation;
}

const actions = [
  [RuleAction.REFUSE, 'refuse'],
  [RuleAction.MASK, 'mask'],
  [RuleAction.FLAG, 'flag'],
] as const;

/**
 * Implements sendbatch.v1.ModerationService: each RPC converts between the proto and a use case.
 */
export function createModerationService({ moderation }: ModerationServiceParts): ServiceImpl<typeof ModerationService> {
  return {
    createRule: async ({ rule }) => ({ rule: toMessage(await moderation.create(toRule(rule))) }),
    updateRule: async ({ ruleId, rule }) => ({
      rule: toMessage(await moderation.replace({ ...toRule(rule), ruleId: Number(ruleId) })),
    }),
    async deleteRule({ ruleId }) {
      await moderation.remove(Number(ruleId));
      return {};
    },
    async listRules({ pageSize, pageToken }) {
      const [after = 0] = parsePageToken(pageToken);
      const rules = (await moderation.list()).filter((rule) => rule.ruleId > after);
      const { page, last } = pageOf(rules, pageSize || rules.length);
      return {
        rules: page.map(toMessage),
        ...(last === undefined ? {} : { nextPageToken: String(last.ruleId) }),
      };
    },

    testRules: ({ channelType, tagKey, payload }, context) =>
      moderation
        .test(
          { channelType, tagKey, payload },
          { caller: callerOf(context).id, signal: cancellationOf(context.values, context) },
        )
        .then(({ refusedBy, maskedBy, flaggedBy, payload: stored }) => ({
          refusedBy: refusedBy.map(BigInt),
          maskedBy: maskedBy.map(BigInt),
          flaggedBy: flaggedBy.map(BigInt),
          payload: stored,
        })),

    async listFlagged({ pageSize, pageToken }) {
      const limit = pageSize || limits.pageMessagesDefault;
      const [after = 0] = parsePageToken(pageToken);
      const { page, last } = pageOf(await moderation.listFlagged(after, limit + 1), limit);
      return {
        flagged: page.map((each) => ({
          ...each,
          messageId: BigInt(each.messageId),
          messageSeq: BigInt(each.messageSeq),
          channelType: each.channelType as ChannelType,
          ruleIds: each.ruleIds.map(BigInt),
          flaggedAt: timestampFromMs(each.flaggedAt),
        })),
        nextPageToken: last === undefined ? '' : String(last.messageId),
      };
    },
    async reviewFlagged({ messageIds }) {
      await moderation.review(messageIds.map(Number));
      return {};
    },
  };
}

function toRule(rule: RuleMessage | undefined): Omit<Rule, 'ruleId'> {
  const action = actions.find(([number]) => number === rule?.action)?.[1];
  if (rule === undefined || action === undefined) throw new Error('rule and rule.action are required by their rules');
  const { keywords, patterns, channelTypes, tagKeys, note } = rule;
  return { action, keywords, patterns, channelTypes, tagKeys, note };
}

function toMessage(rule: Rule): MessageInitShape<typeof RuleSchema> {
  return {
    ruleId: BigInt(rule.ruleId),
    action: actions.find(([, name]) => name === rule.action)?.[0] ?? RuleAction.UNSPECIFIED,
    keywords: [...rule.keywords],
    patterns: [...rule.patterns],
    channelTypes: rule.channelTypes.map((type) => type as ChannelType),
    tagKeys: [...rule.tagKeys],
    note: rule.note,
  };
}
