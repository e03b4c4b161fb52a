import {
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  getOption,
  hasOption,
  ScalarType,
} from '@bufbuild/protobuf';
import { http } from '../../gen/google/api/annotations_pb.ts';
import type { HttpRule } from '../../gen/google/api/http_pb.ts';
import type { Binding, Body, RulesOf } from './binding.ts';
import { conflictsOf } from './conflict.ts';
import { leafOf, spellTarget, targetOf, whyNoText } from './target.ts';
import { parseTemplate, type Template } from './template.ts';
import { isWellKnown } from './well-known.ts';

/**
 * Compiles the annotations of services into bindings. Throws one error that names every mistake.
 */
export function compileBindings(services: readonly DescService[], rulesOf: RulesOf): Binding[] {
  const mistakes: string[] = [];
  const bindings: Binding[] = [];
  for (const service of services) {
    for (const method of service.methods) {
      if (!hasOption(method, http)) continue;
      const rule = getOption(method, http);
      for (const each of [rule, ...rule.additionalBindings]) {
        try {
          if (each !== rule && each.additionalBindings.length > 0) throw new Error('additional_bindings do not nest');
          bindings.push(compile(method, each, rulesOf));
        } catch (error) {
          const { verb = '', path = '' } = patternOf(each) ?? {};
          const where = [`${service.typeName}/${method.name}`, verb, path].filter((part) => part !== '').join(' ');
          mistakes.push(`${where}: ${error instanceof Error ? error.message : String(error)}`);
        }
      }
    }
  }
  mistakes.push(...conflictsOf(bindings));
  if (mistakes.length > 0) throw new Error(`google.api.http:\n  ${mistakes.join('\n  ')}`);
  return bindings;
}

function compile(method: DescMethod, rule: HttpRule, rulesOf: RulesOf): Binding {
  if (rule.selector !== '') throw new Error('selector has no meaning in an annotation');
  if (!isUnary(method)) throw new Error(`${method.methodKind} methods have no JSON route`);
  const pattern = patternOf(rule);
  if (pattern === undefined) throw new Error('has no get, put, post, delete, patch or custom');
  const { verb, path } = pattern;
  if (!/^(?:\*|[A-Z][A-Z-]*)$/.test(verb)) throw new Error(`${JSON.stringify(verb)} is not an HTTP method`);
  const template = parseTemplate(path);
  const variables = variablesOf(method, template);
  const body = bodyOf(method, rule.body);
  if (body.kind !== 'none' && ['GET', 'HEAD', 'DELETE'].includes(verb))
    throw new Error(`${verb} has no body that servers and proxies agree on: use POST, or leave body out`);
  // A variable inside the body field is allowed: updates are annotated as patch
  // "/v1/{book.name=…}", body "book".
  if (body.kind === 'field' && variables.some(({ target }) => target.length === 1 && target[0] === body.field))
    throw new Error(`${body.field.name} is bound by the path and by the body`);
  const { strictFields = false, anyCase = false, queryFields = [] } = rulesOf({ method, path });
  return {
    method,
    verb,
    template,
    variables,
    body,
    root: rootOf(body, method.input),
    queryFields: queryFields.map((name) => inputField(method, name)),
    strictFields,
    anyCase,
    responseBody: fieldOf(method, 'output', rule.responseBody),
  };
}

function isUnary(method: DescMethod): method is DescMethodUnary {
  return method.methodKind === 'unary';
}

function patternOf(rule: HttpRule): { verb: string; path: string } | undefined {
  const { pattern } = rule;
  if (pattern.case === undefined) return undefined;
  if (pattern.case === 'custom') return { verb: pattern.value.kind, path: pattern.value.path };
  return { verb: pattern.case.toUpperCase(), path: pattern.value };
}

function variablesOf({ input }: DescMethod, template: Template): Binding['variables'] {
  const names = new Set<string>();
  return template.variables.map((variable) => {
    const { fieldPath, start, end } = variable;
    const text = fieldPath.join('.');
    const target = targetOf(input, fieldPath);
    if (target === undefined) throw new Error(`{${text}}: ${input.typeName} has no such field`);
    const leaf = leafOf(target);
    const why = leaf.fieldKind === 'list' ? 'is repeated' : whyNoText(leaf);
    if (why !== undefined) throw new Error(`{${text}} ${why}`);
    const isWide = end - start > 1 || template.segments[start] === '**';
    if (isWide && leaf.scalar !== ScalarType.STRING && leaf.message?.typeName !== 'google.protobuf.StringValue')
      throw new Error(`{${text}} takes several segments, which only a string can hold`);
    const name = spellTarget(target);
    if (names.has(name)) throw new Error(`{${text}} is bound twice`);
    names.add(name);
    return { variable, target };
  });
}

function bodyOf(method: DescMethod, name: string): Body {
  if (name === '*') return { kind: 'whole' };
  const field = fieldOf(method, 'input', name);
  return field === undefined ? { kind: 'none' } : { kind: 'field', field };
}

function fieldOf(method: DescMethod, side: 'input' | 'output', name: string): DescField | undefined {
  if (name === '') return undefined;
  const field = method[side].fields.find((each) => each.name === name);
  if (field === undefined)
    throw new Error(`${side === 'input' ? 'body' : 'response_body'}: ${method[side].typeName} has no field ${name}`);
  return field;
}

function inputField({ input }: DescMethod, name: string): DescField {
  const field = input.fields.find((each) => each.name === name);
  if (field === undefined) throw new Error(`queryFields: ${input.typeName} has no field ${name}`);
  return field;
}

function rootOf(body: Body, input: DescMessage): Binding['root'] {
  if (body.kind === 'none') return 'none';
  if (body.kind === 'whole') return rootOfMessage(input);
  const { field } = body;
  if (field.fieldKind === 'list') return 'array';
  if (field.fieldKind === 'map') return 'object';
  return field.message === undefined ? 'other' : rootOfMessage(field.message);
}

function rootOfMessage(desc: DescMessage): Binding['root'] {
  if (desc.typeName === 'google.protobuf.ListValue') return 'array';
  if (desc.typeName === 'google.protobuf.Struct' || desc.typeName === 'google.protobuf.Any') return 'object';
  return isWellKnown(desc) ? 'other' : 'object';
}
