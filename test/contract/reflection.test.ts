import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import {
  create,
  createFileRegistry,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import * as grpc from '@grpc/grpc-js';
import {
  ServerReflection,
  ServerReflectionRequestSchema,
  ServerReflectionResponseSchema,
} from '../../gen/grpc/reflection/v1/reflection_pb.ts';
import { ServerReflection as ServerReflectionAlpha } from '../../gen/grpc/reflection/v1alpha/reflection_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import { guardedServices } from '../../src/rpc/interceptors/authenticate.ts';
import { openStore } from '../support/database.ts';
import { startService, type TestService } from '../support/service.ts';

type Question = NonNullable<MessageInitShape<typeof ServerReflectionRequestSchema>['messageRequest']>;
type Answer = MessageShape<typeof ServerReflectionResponseSchema>;

const run = promisify(execFile);
const buf = join(import.meta.dirname, '../../node_modules/.bin/buf');

/** Sends questions on one stream with grpc-js, which has no schema, and returns the answers. */
async function askReflection(url: string, version: 'v1' | 'v1alpha', questions: Question[]): Promise<Answer[]> {
  const client = new grpc.Client(new URL(url).host, grpc.credentials.createInsecure());
  const stream = client.makeBidiStreamRequest(
    `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
    (question: Question) =>
      Buffer.from(
        toBinary(
          ServerReflectionRequestSchema,
          create(ServerReflectionRequestSchema, { host: 'h', messageRequest: question }),
        ),
      ),
    (bytes: Buffer) => fromBinary(ServerReflectionResponseSchema, bytes),
    new grpc.Metadata(),
    { deadline: Date.now() + 120_000 },
  );
  for (const question of questions) stream.write(question);
  stream.end();
  const answers: Answer[] = [];
  for await (const answer of stream) answers.push(answer as Answer);
  client.close();
  return answers;
}

function filesOf({ messageResponse }: Answer) {
  assert.equal(messageResponse.case, 'fileDescriptorResponse', JSON.stringify(messageResponse.value));
  const { fileDescriptorProto } = messageResponse.value as { fileDescriptorProto: Uint8Array[] };
  return fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
}

describe('reflection', () => {
  let service: TestService;
  before(async () => {
    service = await startService();
  });
  after(() => service.stop());

  for (const version of ['v1', 'v1alpha'] as const)
    describe(version, () => {
      test(`reflection ${version} lists every service`, async () => {
        const [answer] = await askReflection(service.url, version, [{ case: 'listServices', value: '' }]);
        assert.equal(answer?.messageResponse.case, 'listServicesResponse');
        assert.equal(answer.validHost, 'h');
        assert.equal(answer.originalRequest?.messageRequest.case, 'listServices');
        const names = (answer.messageResponse.value as { service: { name: string }[] }).service.map(({ name }) => name);
        assert.deepEqual(
          names.toSorted(),
          [
            ...guardedServices.map(({ typeName }) => typeName),
            'grpc.health.v1.Health',
            'grpc.reflection.v1.ServerReflection',
            'grpc.reflection.v1alpha.ServerReflection',
          ].toSorted(),
        );
      });

      test(`reflection ${version} returns the file of a service first and all its imports in one answer`, async () => {
        const answers = await askReflection(
          service.url,
          version,
          guardedServices.map(({ typeName }) => ({ case: 'fileContainingSymbol', value: typeName })),
        );
        for (const [index, desc] of guardedServices.entries()) {
          const answer = answers[index];
          assert.ok(answer);
          const file = filesOf(answer);
          assert.equal(file[0]?.name, desc.file.proto.name);
          const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: sorted(file) }));
          const methods = registry
            .getService(desc.typeName)
            ?.methods.map(({ name, input }) => `${name} ${input.typeName}`);
          assert.deepEqual(
            methods,
            desc.methods.map(({ name, input }) => `${name} ${input.typeName}`),
          );
        }
      });

      test(`reflection ${version} finds files by name and by every symbol in them`, async () => {
        const message = 'sendbatch/v1/message.proto';
        const found: [Question, string][] = [
          [{ case: 'fileByFilename', value: message }, message],
          [{ case: 'fileByFilename', value: 'google/protobuf/timestamp.proto' }, 'google/protobuf/timestamp.proto'],
          [{ case: 'fileContainingSymbol', value: 'sendbatch.v1.Message' }, message],
          [{ case: 'fileContainingSymbol', value: '.sendbatch.v1.Message' }, message],
          [{ case: 'fileContainingSymbol', value: 'sendbatch.v1.Message.message_seq' }, message],
          [{ case: 'fileContainingSymbol', value: 'sendbatch.v1.ChannelType' }, message],
          [{ case: 'fileContainingSymbol', value: 'sendbatch.v1.CHANNEL_TYPE_GROUP' }, message],
          [
            { case: 'fileContainingSymbol', value: 'sendbatch.v1.MessageService.SendBatch' },
            'sendbatch/v1/message_service.proto',
          ],
          [
            { case: 'fileContainingSymbol', value: 'sendbatch.v1.SubscribeResponse.frame' },
            'sendbatch/v1/message_service.proto',
          ],
          [{ case: 'fileContainingSymbol', value: 'google.rpc.ErrorInfo' }, 'google/rpc/error_details.proto'],
          [{ case: 'fileContainingSymbol', value: 'google.api.http' }, 'google/api/annotations.proto'],
          [
            { case: 'fileContainingSymbol', value: 'grpc.health.v1.HealthCheckResponse.ServingStatus' },
            'grpc/health/v1/health.proto',
          ],
          [
            {
              case: 'fileContainingExtension',
              value: { containingType: 'google.protobuf.MethodOptions', extensionNumber: 72295728 },
            },
            'google/api/annotations.proto',
          ],
        ];
        const answers = await askReflection(
          service.url,
          version,
          found.map(([question]) => question),
        );
        assert.deepEqual(
          answers.map((answer) => filesOf(answer)[0]?.name),
          found.map(([, name]) => name),
        );
      });

      test(`reflection ${version} lists the extension numbers of a type`, async () => {
        const [answer, none] = await askReflection(service.url, version, [
          { case: 'allExtensionNumbersOfType', value: 'google.protobuf.MethodOptions' },
          { case: 'allExtensionNumbersOfType', value: 'sendbatch.v1.Message' },
        ]);
        assert.deepEqual(answer?.messageResponse.value, {
          $typeName: 'grpc.reflection.v1.ExtensionNumberResponse',
          baseTypeName: 'google.protobuf.MethodOptions',
          extensionNumber: [72295728],
        });
        assert.ok(none?.messageResponse.case === 'allExtensionNumbersResponse');
        assert.deepEqual(none.messageResponse.value.extensionNumber, []);
      });

      test(`reflection ${version} answers unknown names with an error and keeps the stream open`, async () => {
        const answers = await askReflection(service.url, version, [
          { case: 'fileByFilename', value: 'nothing.proto' },
          { case: 'fileContainingSymbol', value: 'sendbatch.v1.Nothing' },
          { case: 'fileContainingSymbol', value: '__proto__' },
          { case: 'fileContainingExtension', value: { containingType: 'sendbatch.v1.Message', extensionNumber: 1 } },
          { case: 'allExtensionNumbersOfType', value: 'sendbatch.v1.Nothing' },
          { case: undefined } as unknown as Question,
          { case: 'listServices', value: '*' },
        ]);
        const codes = answers.map(({ messageResponse }) =>
          messageResponse.case === 'errorResponse' ? messageResponse.value.errorCode : messageResponse.case,
        );
        const { NotFound, InvalidArgument } = Code;
        assert.deepEqual(codes, [
          NotFound,
          NotFound,
          NotFound,
          NotFound,
          NotFound,
          InvalidArgument,
          'listServicesResponse',
        ]);
      });
    });

  test('reflection lets buf call a method without the schema over gRPC, gRPC-Web and Connect', async () => {
    for (const protocol of ['grpc', 'grpcweb', 'connect'])
      for (const reflect of ['grpc-v1', 'grpc-v1alpha']) {
        const { stdout } = await run(buf, [
          'curl',
          ...['--protocol', protocol, '--reflect-protocol', reflect, '--http2-prior-knowledge'],
          `${service.url}/sendbatch.v1.MessageService/GetServerInfo`,
        ]);
        assert.equal(JSON.parse(stdout).limits.batchMessages, 1000, `${protocol} ${reflect}`);
      }
    const { stdout } = await run(buf, ['curl', '--http2-prior-knowledge', '--list-methods', service.url]);
    const methods = guardedServices.flatMap(({ typeName, methods: all }) =>
      all.map(({ name }) => `${typeName}/${name}`),
    );
    for (const method of methods) assert.ok(stdout.includes(`${method}\n`), method);
  });

  test('reflection requires a credential when calls do, with any scope', async () => {
    const strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    const db = openStore(service.databaseUrl);
    try {
      const { key } = await createKeys(db).create({ name: 'reader', scopes: ['read'] });
      const once = async (
        headers: Record<string, string>,
        version: typeof ServerReflection | typeof ServerReflectionAlpha,
      ) => {
        const client = createClient(version as typeof ServerReflection, createGrpcTransport({ baseUrl: strict.url }));
        const questions = async function* () {
          yield { messageRequest: { case: 'listServices' as const, value: '' } };
        };
        for await (const { messageResponse } of client.serverReflectionInfo(questions(), { headers }))
          return messageResponse.case;
        return undefined;
      };
      for (const version of [ServerReflection, ServerReflectionAlpha]) {
        assert.equal(await once({ authorization: `Bearer ${key}` }, version), 'listServicesResponse');
        await assert.rejects(once({}, version), (error) => ConnectError.from(error).code === Code.Unauthenticated);
      }
    } finally {
      await db.destroy();
      await strict.stop();
    }
  });
});

/** Sorts files so that imports come before their importers, as a registry requires. */
function sorted<F extends { name: string; dependency: string[] }>(files: readonly F[]): F[] {
  const byName = new Map(files.map((file) => [file.name, file]));
  const out = new Set<F>();
  const add = (file: F) => {
    if (out.has(file)) return;
    for (const name of file.dependency) {
      const needed = byName.get(name);
      assert.ok(needed !== undefined, `${file.name} needs ${name}`);
      add(needed);
    }
    out.add(file);
  };
  for (const file of files) add(file);
  return [...out];
}
