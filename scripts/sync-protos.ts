// Copies the standard .proto imports again: google/ and grpc/ from pinned npm tarballs,
// buf/validate from the descriptor that @bufbuild/protovalidate ships (no npm package has its
// source). To update, change a version here, run `npm run sync-protos`, and read the diff.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  type DescriptorProto,
  type EnumDescriptorProto,
  type FieldDescriptorProto,
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
} from '@bufbuild/protobuf/wkt';
import { file_buf_validate_validate } from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';

const root = join(import.meta.dirname, '..', 'proto');

const sources: { npm: string; from: string; to?: string; files: string[] }[] = [
  {
    npm: 'google-gax@5.0.8',
    from: 'build/protos',
    files: [
      'google/api/annotations.proto',
      'google/api/http.proto',
      'google/rpc/code.proto',
      'google/rpc/error_details.proto',
      'google/rpc/status.proto',
    ],
  },
  { npm: 'grpc-health-check@2.1.0', from: 'proto', to: 'grpc', files: ['health/v1/health.proto'] },
  {
    npm: '@grpc/reflection@1.0.4',
    from: 'build/proto',
    files: ['grpc/reflection/v1/reflection.proto', 'grpc/reflection/v1alpha/reflection.proto'],
  },
];

for (const source of sources) {
  const work = mkdtempSync(join(tmpdir(), 'sync-protos-'));
  try {
    const tarball = execFileSync('npm', ['pack', source.npm, '--silent'], { cwd: work, encoding: 'utf8' }).trim();
    execFileSync('tar', ['xzf', tarball], { cwd: work });
    for (const file of source.files) {
      const target = join(root, source.to ?? '', file);
      mkdirSync(dirname(target), { recursive: true });
      cpSync(join(work, 'package', source.from, file), target);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

const validate = join(root, 'buf/validate/validate.proto');
mkdirSync(dirname(validate), { recursive: true });
writeFileSync(validate, printValidate());
execFileSync('buf', ['format', '-w', root], { stdio: 'inherit' });

/**
 * Prints the descriptor as source, without CEL options and comments; it keeps the shapes that our
 * protos need.
 */
function printValidate(): string {
  const file = file_buf_validate_validate.proto;
  const out = [
    '// Protovalidate rules, printed by scripts/sync-protos.ts from the descriptor in @bufbuild/protovalidate (Apache-2.0).',
    'syntax = "proto2";',
    `package ${file.package};`,
    ...file.dependency.map((name) => `import "${name}";`),
    // The packages in which each language publishes it; the npm package's descriptor does not name
    // them.
    'option go_package = "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate";',
    'option java_multiple_files = true;',
    'option java_package = "build.buf.validate";',
  ];
  for (const type of file.enumType) out.push(printEnum(type));
  for (const type of file.messageType) out.push(printMessage(type));
  for (const extension of file.extension)
    out.push(`extend ${extension.extendee.slice(1)} {`, printField(extension, []), '}');
  return `${out.join('\n')}\n`;
}

function printEnum(type: EnumDescriptorProto): string {
  return [`enum ${type.name} {`, ...type.value.map((value) => `${value.name} = ${value.number};`), '}'].join('\n');
}

function printMessage(type: DescriptorProto): string {
  const out = [`message ${type.name} {`];
  for (const range of type.extensionRange) {
    const end = range.end === 536870912 ? 'max' : String(range.end - 1);
    out.push(`extensions ${range.start} to ${end};`);
  }
  for (const nested of type.enumType) out.push(printEnum(nested));
  for (const nested of type.nestedType) out.push(printMessage(nested));
  for (const [index, oneof] of type.oneofDecl.entries()) {
    const members = type.field.filter((field) => memberOf(field) === index);
    out.push(`oneof ${oneof.name} {`, ...members.map((field) => printField(field, ['bare'])), '}');
  }
  for (const field of type.field) if (memberOf(field) === undefined) out.push(printField(field, []));
  out.push('}');
  return out.join('\n');
}

function memberOf(field: FieldDescriptorProto): number | undefined {
  return Object.hasOwn(field, 'oneofIndex') && !field.proto3Optional ? field.oneofIndex : undefined;
}

function printField(field: FieldDescriptorProto, style: 'bare'[]): string {
  const label = style.length > 0 ? '' : field.label === FieldDescriptorProto_Label.REPEATED ? 'repeated ' : 'optional ';
  const named = field.type === FieldDescriptorProto_Type.MESSAGE || field.type === FieldDescriptorProto_Type.ENUM;
  const type = named ? field.typeName.slice(1) : String(FieldDescriptorProto_Type[field.type]).toLowerCase();
  return `${label}${type} ${field.name} = ${field.number};`;
}
