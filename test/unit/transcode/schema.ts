import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import {
  clone,
  create,
  createFileRegistry,
  type DescService,
  fromBinary,
  type MessageInitShape,
  setExtension,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema, MethodOptionsSchema } from '@bufbuild/protobuf/wkt';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import { http } from '../../../gen/google/api/annotations_pb.ts';
import { CustomHttpPatternSchema, type HttpRule, HttpRuleSchema } from '../../../gen/google/api/http_pb.ts';
import { createTranscoder, type Transcoder, type TranscoderOptions } from '../../../src/transcode/index.ts';

const root = join(import.meta.dirname, '../../..');
const compiled = fromBinary(
  FileDescriptorSetSchema,
  execFileSync(
    join(root, 'node_modules/.bin/buf'),
    ['build', join(import.meta.dirname, 'proto'), '--as-file-descriptor-set', '-o', '-'],
    { cwd: join(import.meta.dirname, 'proto') },
  ),
);
const packageName = 'sendbatch.transcode.test.v1';

/** The types of the test proto, without any rules. */
export const registry = createFileRegistry(compiled);
export const Thing = required(registry.getMessage(`${packageName}.Thing`));

export type Rule = MessageInitShape<typeof HttpRuleSchema>;
export type MethodName = 'Echo' | 'Other' | 'Third' | 'Raw' | 'Nothing' | 'Watch' | 'Upload';
export type Rules = Partial<Record<MethodName, Rule>>;

export type Pattern = HttpRule['pattern'];
export const get = (path: string): Pattern => ({ case: 'get', value: path });
export const post = (path: string): Pattern => ({ case: 'post', value: path });
export const custom = (kind: string, path: string): Pattern => ({
  case: 'custom',
  value: create(CustomHttpPatternSchema, { kind, path }),
});

/** The service of the test proto as if its methods had these rules. */
export function serviceWith(rules: Rules): DescService {
  const files = clone(FileDescriptorSetSchema, compiled);
  for (const file of files.file)
    for (const service of file.service)
      for (const method of service.method) {
        const rule = rules[method.name as MethodName];
        if (rule === undefined) continue;
        method.options = create(MethodOptionsSchema);
        setExtension(method.options, http, create(HttpRuleSchema, rule));
      }
  return required(createFileRegistry(files).getService(`${packageName}.EchoService`));
}

const echo = (message: unknown) => message;
/** Echoes the request. */
export const echoes = { echo, other: echo, third: echo, raw: echo, nothing: () => ({}) };

/** A transcoder for the rules; its answers contain only set fields, which keeps test rows short. */
export function transcoder(
  rules: Rules,
  more: Partial<TranscoderOptions> & { implementation?: object } = {},
): Transcoder {
  const { implementation = echoes, ...options } = more;
  return createTranscoder({
    services: [{ service: serviceWith(rules), implementation }],
    registry,
    readMaxBytes: 1000,
    timeoutMs: 10_000,
    write: { alwaysImplicit: false, enumsAsNumbers: false },
    ...options,
  });
}

export interface Answer {
  readonly status: number;
  readonly header: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: the bodies are read field by field
  readonly json: any;
}

export function request(
  verb: string,
  url: string,
  body: string | Uint8Array | AsyncIterable<Uint8Array> = '',
  headers: Record<string, string> = {},
): UniversalServerRequest {
  return {
    httpVersion: '1.1',
    method: verb,
    url: `http://test${url}`,
    header: new Headers(headers),
    body: typeof body === 'string' || body instanceof Uint8Array ? chunks(Buffer.from(body)) : body,
    signal: new AbortController().signal,
  };
}

/** Undefined when the transcoder has no such path. */
export async function ask(transcoder: Transcoder, ...what: Parameters<typeof request>): Promise<Answer | undefined> {
  const answer = await transcoder.handle(request(...what));
  if (answer === undefined) return undefined;
  const parts: Uint8Array[] = [];
  for await (const part of answer.body ?? []) parts.push(part);
  const text = Buffer.concat(parts).toString();
  return {
    status: answer.status,
    header: answer.header ?? new Headers(),
    text,
    json: text === '' ? undefined : JSON.parse(text),
  };
}

/** The bytes in two pieces, as a network may deliver them. */
export async function* chunks(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.length === 0) return;
  const half = bytes.length >> 1;
  if (half > 0) yield bytes.subarray(0, half);
  yield bytes.subarray(half);
}

export function required<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('missing');
  return value;
}
