import { errorRef } from './errors.ts';
import type { Schema } from './schema.ts';

const operation = (operationId: string, summary: string, description: string) => ({
  operationId,
  tags: ['Operation'],
  summary,
  description,
});
const json = (schema: Schema, example: unknown) => ({ 'application/json': { schema, example } });
/** The answer to `?verbose`. */
const lines = (example: string) => ({ 'text/plain': { schema: { type: 'string' }, example } });
const verbose = {
  name: 'verbose',
  in: 'query',
  description: 'Answer in lines of text instead of JSON.',
  schema: { type: 'string' },
};
const accessToken = {
  name: 'access_token',
  in: 'query',
  description: 'The credential, for clients that cannot set a header, such as EventSource.',
  schema: { type: 'string' },
};
const probeSchema: Schema = {
  type: 'object',
  properties: {
    status: { type: 'string', enum: ['ok', 'unavailable'] },
    checks: { type: 'object', additionalProperties: { type: 'string' }, description: '`ok`, or the problem.' },
  },
  required: ['status'],
};
const allWell = { database: 'ok', schema: 'ok', draining: 'ok' };
const readiness = (operationId: string, more: string) => ({
  get: {
    ...operation(
      operationId,
      'Readiness: whether the instance can serve calls',
      `Checks that the database answers, that its schema fits this version, and that the instance is not stopping. Queries the database at most once per second.${more}`,
    ),
    security: [{}],
    parameters: [verbose],
    responses: {
      200: {
        description: 'Ready.',
        content: {
          ...json(probeSchema, { status: 'ok', checks: allWell }),
          ...lines('[+] database: ok\n[+] schema: ok\n[+] draining: ok\nok\n'),
        },
      },
      503: {
        description: 'Not ready, with the reason.',
        content: {
          ...json(probeSchema, {
            status: 'unavailable',
            checks: { ...allWell, draining: 'this instance is stopping' },
          }),
          ...lines('[+] database: ok\n[+] schema: ok\n[-] draining: this instance is stopping\nnot ready\n'),
        },
      },
    },
  },
});

/**
 * Paths without an annotation: event streams, probes and pages. Written by hand; a test requests
 * each.
 */
export const morePaths = {
  '/v1/channels/{channel_type}/{channel_id}/events': {
    get: {
      operationId: 'SubscribeEvents',
      tags: ['MessageService'],
      summary: 'Tails a channel as Server-Sent Events',
      description:
        'Subscribe for one channel: the stored messages after the cursor, then new ones. Events: `message`; `changed`, when a message was edited or recalled; `caught_up`; comments as heartbeats. `id` is `<seq>.<change>`, the last sequence and the last change, so that EventSource resumes both without further code. For clients that accept `text/event-stream`, a retryable error (503, 429) is a stream with `retry:` and an `error` event, so that EventSource reconnects. Needs the scope `read`, where credentials are required.',
      parameters: [
        {
          name: 'channel_type',
          in: 'path',
          required: true,
          schema: { type: 'integer', minimum: 1, maximum: 12 },
          example: 2,
        },
        { name: 'channel_id', in: 'path', required: true, schema: { type: 'string' }, example: 'group123' },
        {
          name: 'after_seq',
          in: 'query',
          description:
            'The last sequence already received, or the `id` of an event; unset = start with the first kept message.',
          schema: { type: 'string', pattern: '^[0-9]{1,16}([.][0-9]{1,16})?$' },
        },
        {
          name: 'from_now',
          in: 'query',
          description: 'Start with the next new message.',
          schema: { type: 'boolean' },
        },
        {
          name: 'uid',
          in: 'query',
          description: 'The user that a service reads for.',
          schema: { type: 'string' },
        },
        accessToken,
        {
          name: 'Last-Event-ID',
          in: 'header',
          description: 'Takes precedence over `after_seq`; EventSource sends it.',
          schema: { type: 'string', pattern: '^[0-9]{1,16}([.][0-9]{1,16})?$' },
        },
      ],
      responses: {
        200: {
          description: 'The event stream.',
          content: {
            'text/event-stream': {
              schema: { type: 'string' },
              example:
                'id: 1.0\nevent: message\ndata: {"message_id":4096,"message_seq":1}\n\nid: 1.0\nevent: caught_up\ndata: {"last_seq":1,"last_change":0}\n\n',
            },
          },
        },
        400: errorRef(400),
        401: errorRef(401),
        403: errorRef(403),
        404: errorRef(404),
        503: errorRef(503),
      },
    },
  },
  '/v1/batches/{batch_id}/events': {
    get: {
      operationId: 'WatchBatchEvents',
      tags: ['BatchService'],
      summary: 'Watches a batch as Server-Sent Events',
      description:
        'WatchBatch: a `batch` event now and after each change, until the batch has ended; then the stream ends. Needs the scope `send`, where credentials are required.',
      parameters: [
        { name: 'batch_id', in: 'path', required: true, schema: { type: 'string', minLength: 1, maxLength: 64 } },
        accessToken,
      ],
      responses: {
        200: {
          description: 'The event stream.',
          content: {
            'text/event-stream': {
              schema: { type: 'string' },
              example: 'event: batch\ndata: {"batch_id":"87192632-5de2-46ea-ae10-a698b82c9c07","state":4}\n\n',
            },
          },
        },
        400: errorRef(400),
        401: errorRef(401),
        403: errorRef(403),
        404: errorRef(404),
        503: errorRef(503),
      },
    },
  },
  '/livez': {
    get: {
      ...operation(
        'Livez',
        'Liveness: whether the process is alive',
        'Checks only that the event loop runs, because a restart fixes nothing else.',
      ),
      security: [{}],
      parameters: [verbose],
      responses: {
        200: { description: 'Alive.', content: { ...json(probeSchema, { status: 'ok' }), ...lines('ok\n') } },
      },
    },
  },
  '/readyz': readiness('Readyz', ''),
  '/healthz': readiness('Healthz', ' The same as `/readyz`.'),
  '/health': {
    get: {
      ...operation(
        'Health',
        'Readiness in the legacy shape',
        'The same as `/readyz`, in the shape of the legacy server.',
      ),
      security: [{}],
      responses: {
        200: {
          description: 'Ready.',
          content: json(
            { type: 'object', properties: { status: { const: 'ok' } }, required: ['status'] },
            { status: 'ok' },
          ),
        },
        503: {
          description: 'Not ready, with the reason.',
          content: json(
            {
              type: 'object',
              properties: { status: { const: 'error' }, message: { type: 'string' } },
              required: ['status', 'message'],
            },
            { status: 'error', message: 'draining: this instance is stopping' },
          ),
        },
      },
    },
  },
  '/openapi.json': {
    get: {
      ...operation('OpenApi', 'This document', 'The OpenAPI 3.1 document of all JSON routes.'),
      security: [{}],
      responses: {
        200: { description: 'The document.', content: { 'application/json': { schema: { type: 'object' } } } },
      },
    },
  },
  '/docs': {
    get: {
      ...operation('Docs', 'This document as a page', 'Works offline: everything on it comes from this service.'),
      security: [{}],
      responses: { 200: { description: 'The page.', content: { 'text/html': { schema: { type: 'string' } } } } },
    },
  },
};
