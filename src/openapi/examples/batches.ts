import type { Example } from '../example.ts';

/**
 * BatchService: a batch is submitted, read and cancelled. The test runs with BATCH_CONCURRENCY=0,
 * so the batch stays queued.
 */
export const batches: readonly Example[] = [
  {
    route: 'POST /v1/batches',
    summary: 'Submit two messages with low priority',
    body: {
      name: 'spring news',
      request_id: 'spring-news',
      priority: 1,
      messages: [
        { from_uid: 'system', channel_id: 'group123', channel_type: 2, payload: 'SGVsbG8gR3JvdXAgMQ==' },
        { from_uid: 'system', channel_id: 'group456', channel_type: 2, payload: 'SGVsbG8gR3JvdXAgMg==' },
      ],
    },
    status: 200,
    answer: {
      batch: {
        batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07',
        name: 'spring news',
        request_id: 'spring-news',
        state: 1,
        priority: 1,
        message_count: 2,
        accepted_count: 0,
        duplicate_count: 0,
        refused_count: 0,
        created_at: '2026-11-25T01:38:21.921Z',
        next_at: '2026-11-25T01:38:21.921Z',
        attempts: 0,
      },
    },
  },
  {
    route: 'POST /v1/batches',
    summary: 'Repeat the call: the same batch',
    body: {
      name: 'spring news',
      request_id: 'spring-news',
      priority: 1,
      messages: [
        { from_uid: 'system', channel_id: 'group123', channel_type: 2, payload: 'SGVsbG8gR3JvdXAgMQ==' },
        { from_uid: 'system', channel_id: 'group456', channel_type: 2, payload: 'SGVsbG8gR3JvdXAgMg==' },
      ],
    },
    status: 200,
    answer: {
      batch: {
        batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07',
        name: 'spring news',
        request_id: 'spring-news',
        state: 1,
        priority: 1,
        message_count: 2,
        accepted_count: 0,
        duplicate_count: 0,
        refused_count: 0,
        created_at: '2026-11-25T01:38:21.921Z',
        next_at: '2026-11-25T01:38:21.921Z',
        attempts: 0,
      },
      duplicate: true,
    },
  },
  {
    route: 'POST /v1/batches',
    summary: 'Other messages under the same request_id',
    body: {
      request_id: 'spring-news',
      messages: [{ from_uid: 'system', channel_id: 'group123', channel_type: 2, payload: 'SGVsbG8=' }],
    },
    status: 409,
    answer: {
      status: 409,
      msg: 'request_id "spring-news" was already used for another batch; use a new request_id for a new batch',
      error: {
        code: 6,
        status: 'ALREADY_EXISTS',
        message: 'request_id "spring-news" was already used for another batch; use a new request_id for a new batch',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'REQUEST_ID_REUSED',
            domain: 'sendbatch',
            metadata: { request_id: 'spring-news', batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
          },
        ],
      },
    },
  },
  {
    route: 'GET /v1/batches/{batch_id}',
    summary: 'A queued batch',
    path: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
    status: 200,
    answer: {
      batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07',
      name: 'spring news',
      request_id: 'spring-news',
      state: 1,
      priority: 1,
      message_count: 2,
      accepted_count: 0,
      duplicate_count: 0,
      refused_count: 0,
      created_at: '2026-11-25T01:38:21.921Z',
      next_at: '2026-11-25T01:38:21.921Z',
      attempts: 0,
    },
  },
  {
    route: 'GET /v1/batches/{batch_id}',
    summary: 'A missing batch',
    path: { batch_id: 'none' },
    status: 404,
    answer: {
      status: 404,
      msg: 'batch "none" does not exist or belongs to another caller',
      error: {
        code: 5,
        status: 'NOT_FOUND',
        message: 'batch "none" does not exist or belongs to another caller',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'BATCH_NOT_FOUND',
            domain: 'sendbatch',
            metadata: { batch_id: 'none' },
          },
        ],
      },
    },
  },
  {
    route: 'GET /v1/batches',
    summary: 'The queued batches',
    query: { states: ['queued'], page_size: 10 },
    status: 200,
    answer: {
      batches: [
        {
          batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07',
          name: 'spring news',
          request_id: 'spring-news',
          state: 1,
          priority: 1,
          message_count: 2,
          accepted_count: 0,
          duplicate_count: 0,
          refused_count: 0,
          created_at: '2026-11-25T01:38:21.921Z',
          next_at: '2026-11-25T01:38:21.921Z',
          attempts: 0,
        },
      ],
      next_page_token: '',
    },
  },
  {
    route: 'GET /v1/batches/{batch_id}/results',
    summary: 'The results: none yet',
    path: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
    query: { page_size: 100 },
    status: 200,
    answer: { results: [], next_page_token: '' },
  },
  {
    route: 'POST /v1/batches/{batch_id}:retry',
    summary: 'Retry: refused before the batch has ended',
    path: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
    status: 400,
    answer: {
      status: 400,
      msg: 'the batch cannot be retried: it has not ended yet',
      error: {
        code: 9,
        status: 'FAILED_PRECONDITION',
        message: 'the batch cannot be retried: it has not ended yet',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'BATCH_NOT_RETRYABLE',
            domain: 'sendbatch',
            metadata: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07', state: 'queued' },
          },
        ],
      },
    },
  },
  {
    route: 'POST /v1/batches/{batch_id}:resume',
    summary: 'Resume: refused before the batch is cancelled',
    path: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
    body: { send_at: '2027-01-01T09:00:00Z' },
    status: 400,
    answer: {
      status: 400,
      msg: 'the batch cannot be resumed: cancel it first',
      error: {
        code: 9,
        status: 'FAILED_PRECONDITION',
        message: 'the batch cannot be resumed: cancel it first',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'BATCH_NOT_RETRYABLE',
            domain: 'sendbatch',
            metadata: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07', state: 'queued' },
          },
        ],
      },
    },
  },
  {
    route: 'POST /v1/batches/{batch_id}:cancel',
    summary: 'Cancel the batch',
    path: { batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07' },
    status: 200,
    answer: {
      batch_id: '87192632-5de2-46ea-ae10-a698b82c9c07',
      name: 'spring news',
      request_id: 'spring-news',
      state: 5,
      priority: 1,
      message_count: 2,
      accepted_count: 0,
      duplicate_count: 0,
      refused_count: 0,
      created_at: '2026-11-25T01:38:21.921Z',
      ended_at: '2026-11-25T01:38:22.108Z',
      attempts: 0,
    },
  },
];
