import type { Example } from '../example.ts';

const key = {
  key_id: 'billing0key00001',
  name: 'billing',
  state: 1,
  scopes: ['send', 'read'],
  senders: ['billing'],
  rate_per_second: 500,
  created_at: '2026-11-27T07:40:11.204Z',
  created_by: 'anybody',
  expires_at: '2099-01-01T00:00:00Z',
  revoked_by: '',
};

/** KeyService: a key is created, listed and revoked. */
export const keys: readonly Example[] = [
  {
    route: 'POST /v1/keys',
    summary: 'A key that sends as one uid',
    body: {
      name: 'billing',
      scopes: ['send', 'read'],
      senders: ['billing'],
      rate_per_second: 500,
      expires_at: '2099-01-01T00:00:00Z',
    },
    status: 200,
    answer: { key, secret: 'sb_billing0key00001_YW4gZXhhbXBsZSwgYW5kIG5vYm9keXMgc2VjcmV0IQ0' },
  },
  {
    route: 'GET /v1/keys',
    summary: 'The latest keys',
    query: { page_size: 10 },
    status: 200,
    answer: { keys: [key], next_page_token: '' },
  },
  {
    route: 'POST /v1/keys/{key_id}:revoke',
    summary: 'Revoke the key',
    path: { key_id: 'billing0key00001' },
    body: {},
    status: 200,
    answer: {
      key: { ...key, state: 3, revoked_at: '2026-11-27T07:41:00.112Z', revoked_by: 'anybody' },
      cancelled_batches: 0,
    },
  },
  {
    route: 'POST /v1/keys/{key_id}:revoke',
    summary: 'A missing key',
    path: { key_id: 'aaaaaaaaaaaaaaaa' },
    body: {},
    status: 404,
    answer: {
      status: 404,
      msg: 'key "aaaaaaaaaaaaaaaa" does not exist; ListKeys shows all keys',
      error: {
        code: 5,
        status: 'NOT_FOUND',
        message: 'key "aaaaaaaaaaaaaaaa" does not exist; ListKeys shows all keys',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'KEY_NOT_FOUND',
            domain: 'sendbatch',
            metadata: { key_id: 'aaaaaaaaaaaaaaaa' },
          },
        ],
      },
    },
  },
];
