import { comments } from '../../../gen/sendbatch/comments.ts';
import { BatchService } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import { createDocument, type Document } from '../../openapi/document.ts';
import { examples } from '../../openapi/examples/index.ts';
import { morePaths } from '../../openapi/more-paths.ts';
import { knownReasons } from '../../rpc/error-mapping.ts';
import { scopeOf } from '../../rpc/interceptors/authenticate.ts';
import { alwaysWritten, legacyAnswers } from '../../rpc/legacy.ts';
import type { Binding } from '../../transcode/index.ts';

export interface DocsParts {
  readonly version: string;
  /** Whether `/` names the console. */
  readonly hasConsole: boolean;
  /** Whether calls need a credential. */
  readonly needsCredential: boolean;
  readonly bindings: readonly Binding[];
}

/** The OpenAPI document of the JSON routes. */
export function createApiDocument({ version, needsCredential, bindings }: DocsParts): Document {
  return createDocument({
    title: 'sendbatch',
    version,
    description,
    bindings,
    comments,
    examples,
    alwaysWritten,
    answersOf: legacyAnswers,
    headersOf: ({ input }) =>
      input.fields.some((field) => field.name === 'request_id')
        ? { 'Idempotency-Key': 'Equivalent to `request_id`: a key that makes a retry of the same call safe.' }
        : {},
    formsOf: (method) => (method === BatchService.method.submitBatch ? ndjson : {}),
    scopeOf,
    needsCredential,
    securitySchemes: {
      bearer: {
        type: 'http',
        scheme: 'bearer',
        description: 'An API key (`sb_…`), or a JWT of the configured issuer.',
      },
      token: {
        type: 'apiKey',
        in: 'header',
        name: 'token',
        description: 'An API key in the header of the legacy server.',
      },
    },
    reasons: knownReasons,
    morePaths,
  });
}

/** The other body format of SubmitBatch (ndjson.ts). */
const ndjson = {
  'application/x-ndjson': {
    schema: {
      type: 'string',
      description: 'One message per line; the options are query parameters with the same names.',
    },
    example:
      '{"from_uid":"system","channel_id":"group123","channel_type":2,"payload":"SGk="}\n{"from_uid":"system","channel_id":"group456","channel_type":2,"payload":"SGk="}\n',
  },
};

const description = `A batch message service. gRPC, gRPC-Web and Connect serve the same calls under \`/sendbatch.v1.<Service>/<Method>\`; this document describes the JSON routes.

Requests: fields have their proto name or its lowerCamelCase form; \`null\` means unset; any Content-Type is read as JSON. Unknown fields are refused under \`/v1/\` and ignored on the legacy routes, which also accept names in any case. Unknown query parameters are refused on every route. Enums are numbers or names, also without their prefix and in any case (\`high\` for \`BATCH_PRIORITY_HIGH\`). Bytes are base64. 64-bit numbers may be strings.

Answers: enums and 64-bit numbers are numbers, at most 2^53-1. Every answer has the header \`x-request-id\`; a request may set it.`;
