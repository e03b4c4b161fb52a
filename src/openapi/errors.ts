import type { Schema } from './schema.ts';

/** A reason for refusing a call. */
export interface KnownReason {
  readonly reason: string;
  readonly http: number;
  /** The JSON body of such an error with this text. */
  readonly body: (text: string) => unknown;
}

const row = /^\| *((?:`[A-Z_]+`(?:, *)?)+) *\|[^|]*\|[^|]*\| *(.*?) *\|$/;

/**
 * Returns the `when` column per reason from the tables `| reason | code | HTTP | when |` in
 * comments.
 */
export function reasonTexts(comments: readonly string[]): Map<string, string> {
  const texts = new Map<string, string>();
  for (const comment of comments)
    for (const line of comment.split('\n')) {
      const [, reasons = '', when = ''] = row.exec(line) ?? [];
      for (const [, reason] of reasons.matchAll(/`([A-Z_]+)`/g)) if (reason !== undefined) texts.set(reason, when);
    }
  return texts;
}

/** Returns the HTTP statuses of the reasons that a text names in backticks. */
export function reasonsIn(text: string, reasons: readonly KnownReason[]): number[] {
  const named = new Set([...text.matchAll(/`([A-Z_]+)`/g)].map((match) => match[1]));
  return reasons.filter(({ reason }) => named.has(reason)).map(({ http }) => http);
}

/** A response in the document's components. */
export interface ErrorResponse {
  readonly description: string;
  readonly content: { readonly 'application/json': { readonly schema: Schema; readonly examples: object } };
}

export function errorRef(status: number): { $ref: string } {
  return { $ref: `#/components/responses/Error${status}` };
}

/** Creates the error body, and one response per status with one example per reason. */
export function errorComponents(
  reasons: readonly KnownReason[],
  texts: ReadonlyMap<string, string>,
): { schemas: Record<string, Schema>; responses: Record<string, ErrorResponse> } {
  const responses: Record<string, ErrorResponse> = {};
  for (const status of [...new Set(reasons.map(({ http }) => http))].sort((a, b) => a - b)) {
    const these = reasons.filter(({ http }) => http === status);
    const lines = these.map(({ reason }) => `- \`${reason}\`: ${texts.get(reason) ?? ''}`);
    const examples = these.map(({ reason, body }) => [reason, { value: body(texts.get(reason) ?? reason) }]);
    responses[`Error${status}`] = {
      description: lines.join('\n'),
      content: {
        'application/json': {
          schema: { $ref: '#/components/schemas/Error' },
          examples: Object.fromEntries(examples),
        },
      },
    };
  }
  return { schemas: { Error: errorSchema, ErrorDetail: detailSchema }, responses };
}

const errorSchema: Schema = {
  type: 'object',
  description: 'An error of a JSON route. Legacy callers read `msg` and `status`; new ones read `error`.',
  properties: {
    status: { type: 'integer', minimum: 400, maximum: 599, description: 'The HTTP status.' },
    msg: { type: 'string', description: 'The error in words, for people.' },
    error: {
      type: 'object',
      properties: {
        code: { type: 'integer', minimum: 1, maximum: 16, description: 'The gRPC status code.' },
        status: { type: 'string', description: 'The name of the code, such as `NOT_FOUND`.' },
        message: { type: 'string', description: 'The same as `msg`.' },
        details: { type: 'array', items: { $ref: '#/components/schemas/ErrorDetail' } },
      },
      required: ['code', 'status', 'message', 'details'],
    },
  },
  required: ['status', 'msg', 'error'],
};

const detailSchema: Schema = {
  type: 'object',
  description:
    'One of three types. google.rpc.ErrorInfo: the stable `reason`, and `metadata` for programs. google.rpc.BadRequest: every invalid field. google.rpc.RetryInfo: when to retry.',
  properties: {
    '@type': { type: 'string' },
    reason: { type: 'string' },
    domain: { type: 'string' },
    metadata: { type: 'object', additionalProperties: { type: 'string' } },
    fieldViolations: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          field: { type: 'string', description: 'The path of the field, such as `messages[3].channel_id`.' },
          description: { type: 'string' },
          reason: { type: 'string' },
          localizedMessage: { type: 'object' },
        },
        required: ['field', 'description'],
      },
    },
    retryDelay: { type: 'string', description: 'The time to wait before a retry, in seconds with the unit: `1s`.' },
  },
  required: ['@type'],
};
