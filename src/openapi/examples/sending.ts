import type { Example } from '../example.ts';

/** MessageService: batches, broadcasts and single messages. */
export const sending: readonly Example[] = [
  {
    route: 'POST /message/sendbatch',
    summary: 'Messages to two groups',
    body: [
      {
        header: { no_persist: 0, red_dot: 1, sync_once: 0 },
        client_msg_no: 'batch_msg_1',
        from_uid: 'system',
        channel_id: 'group123',
        channel_type: 2,
        expire: 0,
        payload: 'SGVsbG8gR3JvdXAgMQ==',
        tag_key: 'notification',
      },
      {
        header: { no_persist: 0, red_dot: 1, sync_once: 0 },
        client_msg_no: 'batch_msg_2',
        from_uid: 'system',
        channel_id: 'group456',
        channel_type: 2,
        expire: 0,
        payload: 'SGVsbG8gR3JvdXAgMg==',
        tag_key: 'notification',
      },
    ],
    status: 200,
    answer: [
      { message_id: 4096, message_seq: 1, client_msg_no: 'batch_msg_1' },
      { message_id: 4097, message_seq: 1, client_msg_no: 'batch_msg_2' },
    ],
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'Repeat the call: the same numbers',
    body: [
      {
        header: { no_persist: 0, red_dot: 1, sync_once: 0 },
        client_msg_no: 'batch_msg_1',
        from_uid: 'system',
        channel_id: 'group123',
        channel_type: 2,
        expire: 0,
        payload: 'SGVsbG8gR3JvdXAgMQ==',
        tag_key: 'notification',
      },
      {
        header: { no_persist: 0, red_dot: 1, sync_once: 0 },
        client_msg_no: 'batch_msg_2',
        from_uid: 'system',
        channel_id: 'group456',
        channel_type: 2,
        expire: 0,
        payload: 'SGVsbG8gR3JvdXAgMg==',
        tag_key: 'notification',
      },
    ],
    status: 200,
    answer: [
      { message_id: 4096, message_seq: 1, client_msg_no: 'batch_msg_1', duplicate: true },
      { message_id: 4097, message_seq: 1, client_msg_no: 'batch_msg_2', duplicate: true },
    ],
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'A template for two messages, one without its variable',
    body: [
      {
        client_msg_no: 'welcome_1',
        from_uid: 'system',
        channel_id: 'group123',
        channel_type: 2,
        template: { name: 'welcome', variables: { user: 'Ann', day: 'Monday' } },
      },
      {
        client_msg_no: 'welcome_2',
        from_uid: 'system',
        channel_id: 'group456',
        channel_type: 2,
        template: { name: 'welcome', variables: { user: 'Bob' } },
      },
    ],
    status: 207,
    answer: [
      { message_id: 16384, message_seq: 2, client_msg_no: 'welcome_1' },
      {
        message_id: 0,
        message_seq: 0,
        client_msg_no: 'welcome_2',
        error: {
          code: 3,
          reason: 'TEMPLATE_FAILED',
          message: 'template "welcome" needs variables that were not given: day',
          metadata: { template: 'welcome', missing: 'day' },
        },
      },
    ],
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'ATOMIC: a sender that is not a member',
    query: { mode: 'atomic', request_id: 'order-1' },
    body: [{ from_uid: 'mallory', channel_id: 'friends', channel_type: 2, payload: 'SGk=' }],
    status: 403,
    answer: {
      status: 403,
      msg: 'messages[0]: from_uid "mallory" is not a member of the channel; add it with AddMembers (POST /channel/subscriber_add) (1 of 1 refused; the batch is ATOMIC, nothing was stored)',
      error: {
        code: 7,
        status: 'PERMISSION_DENIED',
        message:
          'messages[0]: from_uid "mallory" is not a member of the channel; add it with AddMembers (POST /channel/subscriber_add) (1 of 1 refused; the batch is ATOMIC, nothing was stored)',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'NOT_SUBSCRIBER',
            domain: 'sendbatch',
            metadata: {
              channel_id: 'friends',
              channel_type: '2',
              from_uid: 'mallory',
              reason_code: '3',
              index: '0',
              refused: '1',
            },
          },
          {
            '@type': 'type.googleapis.com/google.rpc.BadRequest',
            fieldViolations: [
              {
                field: 'messages[0]',
                description:
                  'from_uid "mallory" is not a member of the channel; add it with AddMembers (POST /channel/subscriber_add)',
                reason: 'NOT_SUBSCRIBER',
              },
            ],
          },
        ],
      },
    },
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'A sender that is not a member',
    body: [
      { client_msg_no: 'no_member', from_uid: 'mallory', channel_id: 'friends', channel_type: 2, payload: 'SGk=' },
    ],
    status: 403,
    answer: [
      {
        message_id: 0,
        message_seq: 0,
        client_msg_no: 'no_member',
        error: {
          code: 7,
          reason: 'NOT_SUBSCRIBER',
          message:
            'from_uid "mallory" is not a member of the channel; add it with AddMembers (POST /channel/subscriber_add)',
          metadata: { channel_id: 'friends', channel_type: '2', from_uid: 'mallory', reason_code: '3' },
        },
      },
    ],
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'A malformed batch',
    body: [{ from_uid: 'system', channel_type: 2, payload: 'SGk=' }],
    status: 400,
    answer: {
      status: 400,
      msg: 'messages[0].channel_id: is required; only a command (header.sync_once = 1) with subscribers may leave it out',
      error: {
        code: 3,
        status: 'INVALID_ARGUMENT',
        message:
          'messages[0].channel_id: is required; only a command (header.sync_once = 1) with subscribers may leave it out',
        details: [
          { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'INVALID_FIELD', domain: 'sendbatch' },
          {
            '@type': 'type.googleapis.com/google.rpc.BadRequest',
            fieldViolations: [
              {
                field: 'messages[0].channel_id',
                description: 'is required; only a command (header.sync_once = 1) with subscribers may leave it out',
                reason: 'INVALID_FIELD',
              },
            ],
          },
        ],
      },
    },
  },
  {
    route: 'POST /message/sendbatch',
    summary: 'Broadcast: the object form',
    body: {
      header: { red_dot: 1 },
      from_uid: 'system',
      subscribers: ['alice', 'bob'],
      payload: 'SGk=',
      request_id: 'news-1',
    },
    status: 200,
    answer: { fail_uids: [], reason: [] },
  },
  {
    route: 'POST /message/broadcast',
    summary: 'A broadcast with an invalid uid',
    body: { from_uid: 'system', subscribers: ['alice', 'b@b'], payload: 'SGk=', request_id: 'news-2' },
    status: 200,
    answer: { fail_uids: ['b@b'], reason: ['INVALID_FIELD: the uid must not contain @, # or &'] },
  },
  {
    route: 'POST /message/send',
    summary: 'A message from a member',
    body: { client_msg_no: 'msg_1', from_uid: 'alice', channel_id: 'friends', channel_type: 2, payload: 'SGk=' },
    status: 200,
    answer: {
      status: 200,
      data: { message_id: 36864, message_seq: 1, client_msg_no: 'msg_1' },
      message_id: 36864,
      message_seq: 1,
      client_msg_no: 'msg_1',
    },
  },
  {
    route: 'POST /message/send',
    summary: 'A command to one member',
    body: {
      header: { sync_once: 1 },
      client_msg_no: 'cmd_1',
      from_uid: 'system',
      channel_id: 'friends',
      channel_type: 2,
      payload: 'eyJjbWQiOiJyZWxvYWQifQ==',
      subscribers: ['bob'],
    },
    status: 200,
    answer: {
      status: 200,
      data: { message_id: 40960, message_seq: 1, client_msg_no: 'cmd_1' },
      message_id: 40960,
      message_seq: 1,
      client_msg_no: 'cmd_1',
    },
  },
];
