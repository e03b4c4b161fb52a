import type { Example } from '../example.ts';

/** MessageService: stored messages are edited and recalled. */
export const changes: readonly Example[] = [
  {
    route: 'POST /v1/channels/{channel_type}/{channel_id}/messages/{message_seq}:edit',
    summary: 'Correct a message that nobody has edited',
    path: { channel_type: 2, channel_id: 'group123', message_seq: 2 },
    body: { payload: 'SGkgQW5uLCBpdCBpcyBUdWVzZGF5', expected_revision: 0 },
    status: 200,
    answer: {
      message: {
        header: { no_persist: 0, red_dot: 0, sync_once: 0 },
        message_id: 16384,
        message_seq: 2,
        client_msg_no: 'welcome_1',
        from_uid: 'system',
        channel_id: 'group123',
        channel_type: 2,
        expire: 0,
        timestamp: '2026-11-25T01:11:29.573Z',
        payload: 'SGkgQW5uLCBpdCBpcyBUdWVzZGF5',
        subscribers: [],
        stream_no: '',
        tag_key: '',
        state: 1,
        revision: 1,
        edited_at: '2026-11-27T05:11:29.573Z',
      },
      unchanged: false,
    },
  },
  {
    route: 'POST /v1/channels/{channel_type}/{channel_id}/messages:recall',
    summary: 'Take back a message; another one does not exist',
    path: { channel_type: 2, channel_id: 'group123' },
    body: { message_seqs: [1, 99] },
    status: 200,
    answer: {
      recalled_count: 1,
      results: [
        { message_seq: 1, message_id: 4096, client_msg_no: 'batch_msg_1', unchanged: false },
        {
          message_seq: 99,
          message_id: 0,
          client_msg_no: '',
          unchanged: false,
          error: {
            code: 5,
            reason: 'MESSAGE_NOT_FOUND',
            message:
              'the channel has no message with message_seq "99" that this caller may change; it may have expired',
            metadata: { message_seq: '99' },
          },
        },
      ],
    },
  },
  {
    route: 'GET /v1/channels/{channel_type}/{channel_id}/messages/{message_seq}/copies',
    summary: 'Contents that the message had; none are kept without RECALL_KEEP_DAYS',
    path: { channel_type: 2, channel_id: 'group123', message_seq: 2 },
    status: 200,
    answer: { copies: [], next_page_token: '' },
  },
];
