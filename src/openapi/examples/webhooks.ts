import type { Example } from '../example.ts';

const crm = {
  name: 'crm',
  url: 'https://hooks.example.invalid/sendbatch',
  format: 1,
  channel_types: [2],
  disabled: false,
  disabled_reason: 0,
  batch_size: 100,
  max_wait_ms: 200,
  created_at: '2026-11-25T01:52:06.488Z',
  updated_at: '2026-11-25T01:52:06.488Z',
  failures: 0,
  queued_messages: 0,
  parked_deliveries: 0,
};

/** WebhookService: a webhook is made, looked at, changed, tried and deleted. Its host has a name that nobody can have, so that nothing is posted anywhere. */
export const webhooks: readonly Example[] = [
  {
    route: 'POST /v1/webhooks',
    summary: 'For what is stored in groups',
    body: {
      name: 'crm',
      url: 'https://hooks.example.invalid/sendbatch',
      channel_types: [2],
      max_wait_ms: 200,
      secret: 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=',
    },
    status: 200,
    answer: { webhook: crm, secret: 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=' },
  },
  {
    route: 'POST /v1/webhooks',
    summary: 'An address that is not a public one',
    body: { name: 'inner', url: 'https://127.0.0.1/hook' },
    status: 400,
    answer: {
      status: 400,
      msg: 'url: leads to 127.0.0.1, which is no public address; such are allowed by WEBHOOK_ALLOW_PRIVATE=on',
      error: {
        code: 3,
        status: 'INVALID_ARGUMENT',
        message: 'url: leads to 127.0.0.1, which is no public address; such are allowed by WEBHOOK_ALLOW_PRIVATE=on',
        details: [
          { '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'INVALID_FIELD', domain: 'sendbatch' },
          {
            '@type': 'type.googleapis.com/google.rpc.BadRequest',
            fieldViolations: [
              {
                field: 'url',
                description:
                  'leads to 127.0.0.1, which is no public address; such are allowed by WEBHOOK_ALLOW_PRIVATE=on',
                reason: 'INVALID_FIELD',
              },
            ],
          },
        ],
      },
    },
  },
  { route: 'GET /v1/webhooks/{name}', summary: 'How it stands', path: { name: 'crm' }, status: 200, answer: crm },
  { route: 'GET /v1/webhooks', summary: 'All of them', status: 200, answer: { webhooks: [crm] } },
  {
    route: 'POST /v1/webhooks/{name}:test',
    summary: 'A receiver that is not there',
    path: { name: 'crm' },
    body: {},
    status: 200,
    answer: { delivered: false, status: 0, error: 'no answer: ENOTFOUND', duration_ms: 10 },
  },
  {
    route: 'POST /v1/webhooks/{name}:rotateSecret',
    summary: 'Another secret, beside the first for a day',
    path: { name: 'crm' },
    body: { secret: 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDI=' },
    status: 200,
    answer: {
      secret: 'whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDI=',
      previous_secret_until: '2026-11-26T01:52:06.742Z',
    },
  },
  {
    route: 'GET /v1/webhooks/{name}/deliveries',
    summary: 'What has failed: nothing',
    path: { name: 'crm' },
    status: 200,
    answer: { deliveries: [], next_page_token: '' },
  },
  {
    route: 'POST /v1/webhooks/{name}/deliveries:redeliver',
    summary: 'All that is parked, again',
    path: { name: 'crm' },
    body: {},
    status: 200,
    answer: { queued: 0 },
  },
  {
    route: 'PUT /v1/webhooks/{name}',
    summary: 'As WuKongIM posts it, for all types, and not now',
    path: { name: 'crm' },
    body: { url: 'https://hooks.example.invalid/sendbatch', format: 2, disabled: true },
    status: 200,
    answer: {
      ...crm,
      format: 2,
      channel_types: [],
      disabled: true,
      disabled_reason: 1,
      max_wait_ms: 0,
      previous_secret_until: '2026-11-26T01:52:06.742Z',
    },
  },
  {
    route: 'DELETE /v1/webhooks/{name}',
    summary: 'With all that it has queued',
    path: { name: 'crm' },
    status: 200,
    answer: { status: 200 },
  },
];
