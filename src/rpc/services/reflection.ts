import {
  type DescExtension,
  type DescFile,
  type DescMessage,
  type DescService,
  type MessageInitShape,
  toBinary,
} from '@bufbuild/protobuf';
import { nestedTypes } from '@bufbuild/protobuf/reflect';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { Code, type ServiceImpl } from '@connectrpc/connect';
import type {
  ServerReflection,
  ServerReflectionRequest,
  ServerReflectionResponseSchema,
} from '../../../gen/grpc/reflection/v1/reflection_pb.ts';
import { type CredentialWatch, streamCredential } from '../credential-watch.ts';

type Answer = NonNullable<MessageInitShape<typeof ServerReflectionResponseSchema>['messageResponse']>;

/**
 * Implements grpc.reflection. v1alpha has the same messages under another name, so one
 * implementation serves both. A file is sent with all its direct and indirect imports: clients
 * build a schema from one answer. `more`: files that no service imports, such as error details.
 */
export function createReflectionService(
  services: () => readonly DescService[],
  more: readonly DescFile[],
  { closing, credentials }: { readonly closing: AbortSignal; readonly credentials: CredentialWatch },
): ServiceImpl<typeof ServerReflection> {
  let index: Index | undefined;
  return {
    serverReflectionInfo: (requests, context) =>
      credentials.whileValid(streamCredential(context), async function* (ended) {
        index ??= indexOf(services(), more);
        for await (const request of untilAborted(requests, AbortSignal.any([closing, ended])))
          yield { validHost: request.host, originalRequest: request, messageResponse: answerOf(request, index) };
      }),
  };
}

/** Ends the iteration on abort: an idle client must not delay a stop for hours. */
async function* untilAborted<T>(requests: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
  const { promise: aborted, resolve } = Promise.withResolvers<undefined>();
  const stop = () => resolve(undefined);
  signal.addEventListener('abort', stop);
  if (signal.aborted) stop();
  const iterator = requests[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([iterator.next(), aborted]);
      if (next === undefined || next.done === true) return;
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

interface Index {
  readonly services: readonly DescService[];
  readonly files: ReadonlyMap<string, DescFile>;
  /** Each fully qualified name: types, fields, enum values, services, methods, extensions. */
  readonly symbols: ReadonlyMap<string, DescFile>;
  readonly messages: ReadonlySet<string>;
  readonly extensions: readonly DescExtension[];
}

function answerOf({ messageRequest }: ServerReflectionRequest, index: Index): Answer {
  switch (messageRequest.case) {
    case 'listServices':
      return {
        case: 'listServicesResponse',
        value: { service: index.services.map(({ typeName }) => ({ name: typeName })) },
      };
    case 'fileByFilename':
      return filesOr(index.files.get(messageRequest.value), `file ${quoted(messageRequest.value)}`);
    case 'fileContainingSymbol':
      return filesOr(
        index.symbols.get(messageRequest.value.replace(/^\./, '')),
        `symbol ${quoted(messageRequest.value)}`,
      );
    case 'fileContainingExtension': {
      const { containingType, extensionNumber } = messageRequest.value;
      const found = extensionsOf(containingType, index).find((each) => each.number === extensionNumber);
      return filesOr(found?.file, `extension ${extensionNumber} of ${quoted(containingType)}`);
    }
    case 'allExtensionNumbersOfType': {
      const baseTypeName = messageRequest.value.replace(/^\./, '');
      if (!index.messages.has(baseTypeName)) return notFound(`message ${quoted(baseTypeName)}`);
      const extensionNumber = extensionsOf(baseTypeName, index).map((each) => each.number);
      return { case: 'allExtensionNumbersResponse', value: { baseTypeName, extensionNumber } };
    }
    default:
      return errorOf(Code.InvalidArgument, 'message_request is required: which file, symbol or list is asked for');
  }
}

function extensionsOf(typeName: string, { extensions }: Index): DescExtension[] {
  const plain = typeName.replace(/^\./, '');
  return extensions.filter((each) => each.extendee.typeName === plain);
}

function filesOr(file: DescFile | undefined, what: string): Answer {
  if (file === undefined) return notFound(what);
  const fileDescriptorProto = [...withImports([file])].map((each) => toBinary(FileDescriptorProtoSchema, each.proto));
  return { case: 'fileDescriptorResponse', value: { fileDescriptorProto } };
}

function notFound(what: string): Answer {
  return errorOf(Code.NotFound, `no ${what} here`);
}

function errorOf(errorCode: Code, errorMessage: string): Answer {
  return { case: 'errorResponse', value: { errorCode, errorMessage } };
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}…` : text);
}

function indexOf(services: readonly DescService[], more: readonly DescFile[]): Index {
  const all = [...withImports([...services.map(({ file }) => file), ...more])];
  const symbols = new Map<string, DescFile>();
  const messages = new Set<string>();
  const extensions: DescExtension[] = [];
  for (const file of all) {
    for (const type of nestedTypes(file)) {
      symbols.set(type.typeName, file);
      if (type.kind === 'message') {
        messages.add(type.typeName);
        for (const name of membersOf(type)) symbols.set(name, file);
      } else if (type.kind === 'service') {
        for (const method of type.methods) symbols.set(`${type.typeName}.${method.name}`, file);
      } else if (type.kind === 'enum') {
        // An enum value is a sibling of its enum, not its child.
        const scope = type.typeName.slice(0, -type.name.length);
        for (const value of type.values) symbols.set(scope + value.name, file);
      } else extensions.push(type);
    }
  }
  // By the name with its extension, which generated code drops.
  return { services, files: new Map(all.map((file) => [file.proto.name, file])), symbols, messages, extensions };
}

function membersOf(type: DescMessage): string[] {
  return [...type.fields, ...type.oneofs].map((member) => `${type.typeName}.${member.name}`);
}

/** The files and all their imports, each once. */
function withImports(files: readonly DescFile[], seen: Set<DescFile> = new Set()): Set<DescFile> {
  for (const file of files) {
    if (seen.has(file)) continue;
    seen.add(file);
    withImports(file.dependencies, seen);
  }
  return seen;
}
