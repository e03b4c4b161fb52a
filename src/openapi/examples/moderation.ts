import type { Example } from '../example.ts';

/** ModerationService: a rule is created, flags a message, and is deleted. */
export const moderation: readonly Example[] = [
  {
    route: 'POST /v1/moderation/rules',
    summary: 'Flag messages with a keyword',
    body: { action: 3, keywords: ['casino'], channel_types: [2], note: 'advertising' },
    status: 200,
    answer: {
      rule_id: 1,
      action: 3,
      keywords: ['casino'],
      patterns: [],
      channel_types: [2],
      tag_keys: [],
      note: 'advertising',
    },
  },
  {
    route: 'PUT /v1/moderation/rules/{rule_id}',
    summary: 'Replace the keywords',
    path: { rule_id: 1 },
    body: { action: 3, keywords: ['casino', 'lottery'], note: 'advertising' },
    status: 200,
    answer: {
      rule_id: 1,
      action: 3,
      keywords: ['casino', 'lottery'],
      patterns: [],
      channel_types: [],
      tag_keys: [],
      note: 'advertising',
    },
  },
  {
    route: 'PUT /v1/moderation/rules/{rule_id}',
    summary: 'A missing rule',
    path: { rule_id: 999 },
    body: { action: 1, keywords: ['casino'] },
    status: 404,
    answer: {
      status: 404,
      msg: 'rule 999 does not exist',
      error: {
        code: 5,
        status: 'NOT_FOUND',
        message: 'rule 999 does not exist',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'RULE_NOT_FOUND',
            domain: 'sendbatch',
            metadata: { rule_id: '999' },
          },
        ],
      },
    },
  },
  {
    route: 'GET /v1/moderation/rules',
    summary: 'All rules',
    status: 200,
    answer: {
      rules: [
        {
          rule_id: 1,
          action: 3,
          keywords: ['casino', 'lottery'],
          patterns: [],
          channel_types: [],
          tag_keys: [],
          note: 'advertising',
        },
      ],
    },
  },
  {
    route: 'POST /v1/moderation/rules:test',
    summary: 'What the rules do with a text',
    body: { channel_type: 2, payload: 'bG90dGVyeSE=' },
    status: 200,
    answer: { refused_by: [], masked_by: [], flagged_by: [1], payload: 'bG90dGVyeSE=' },
  },
  {
    route: 'POST /message/send',
    summary: 'A message that the rule flags',
    body: {
      client_msg_no: 'flagged_1',
      from_uid: 'system',
      channel_id: 'group123',
      channel_type: 2,
      payload: 'bG90dGVyeSE=',
    },
    status: 200,
    answer: {
      status: 200,
      data: { message_id: 45056, message_seq: 3, client_msg_no: 'flagged_1' },
      message_id: 45056,
      message_seq: 3,
      client_msg_no: 'flagged_1',
    },
  },
  {
    route: 'GET /v1/moderation/flagged',
    summary: 'The flagged messages',
    query: { page_size: 10 },
    status: 200,
    answer: {
      flagged: [
        {
          message_id: 45056,
          message_seq: 3,
          channel_id: 'group123',
          channel_type: 2,
          from_uid: 'system',
          payload: 'bG90dGVyeSE=',
          rule_ids: [1],
          flagged_at: '2026-11-25T01:11:29.680Z',
        },
      ],
      next_page_token: '',
    },
  },
  {
    route: 'POST /v1/moderation/flagged:review',
    summary: 'Mark a message as reviewed',
    body: { message_ids: [4096] },
    status: 200,
    answer: { status: 200 },
  },
  {
    route: 'DELETE /v1/moderation/rules/{rule_id}',
    summary: 'Delete the rule',
    path: { rule_id: 1 },
    status: 200,
    answer: { status: 200 },
  },
];
