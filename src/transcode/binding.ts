import {
  type DescField,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  getOption,
  hasOption,
} from '@bufbuild/protobuf';
import { http } from '../../gen/google/api/annotations_pb.ts';
import type { HttpRule } from '../../gen/google/api/http_pb.ts';
import { isWellKnown } from './json-reader.ts';
import { type Target, targetOf } from './params.ts';
import { parseTemplate, type Template, type Variable } from './template.ts';

/** What a binding takes from the body: nothing, the whole request, or one field of it. */
export type Body =
  | { readonly kind: 'none' }
  | { readonly kind: 'whole' }
  | { readonly kind: 'field'; readonly field: DescField };

/** One route: a verb and a template that call a method. */
export interface Binding {
  readonly method: DescMethodUnary;
  /** An HTTP method, or `*` for any. */
  readonly verb: string;
  readonly template: Template;
  readonly variables: readonly { readonly variable: Variable; readonly target: Target }[];
  readonly body: Body;
  /** The JSON roots that the body may have. */
  readonly root: 'none' | 'object' | 'array' | 'other';
  /** The answer is this field alone. */
  readonly responseBody: DescField | undefined;
}

/** Every binding of the services' rules; throws one error that names every mistake. */
export function compileBindings(services: readonly DescService[]): Binding[] {
  const mistakes: string[] = [];
  const bindings: Binding[] = [];
  for (const service of services) {
    for (const method of service.methods) {
      if (!hasOption(method, http)) continue;
      const rule = getOption(method, http);
      for (const each of [rule, ...rule.additionalBindings]) {
        try {
          if (each !== rule && each.additionalBindings.length > 0) throw new Error('additional_bindings do not nest');
          bindings.push(compile(method, each));
        } catch (error) {
          const where = `${service.typeName}/${method.name} ${patternOf(each)?.path ?? ''}`.trim();
          mistakes.push(`${where}: ${error instanceof Error ? error.message : String(error)}`);
        }
      }
    }
  }
  mistakes.push(...conflicts(bindings));
  if (mistakes.length > 0) throw new Error(`google.api.http:\n  ${mistakes.join('\n  ')}`);
  return bindings;
}

function compile(method: DescMethod, rule: HttpRule): Binding {
  if (rule.selector !== '') throw new Error('selector has no meaning in an annotation');
  if (!isUnary(method)) throw new Error(`${method.methodKind} methods have no JSON route`);
  const pattern = patternOf(rule);
  if (pattern === undefined) throw new Error('has no get, put, post, delete, patch or custom');
  const { verb, path } = pattern;
  if (!/^(?:\*|[A-Z]+)$/.test(verb)) throw new Error(`${JSON.stringify(verb)} is not an HTTP method`);
  const template = parseTemplate(path);
  const variables = template.variables.map((variable) => ({
    variable,
    target: targetOf(method.input, variable.fieldPath, false),
  }));
  const body = bodyOf(method, rule.body);
  if (body.kind !== 'none' && (verb === 'GET' || verb === 'DELETE'))
    throw new Error(`${verb} has no body that servers and proxies agree on: use POST, or leave body out`);
  const { field } = body.kind === 'field' ? body : { field: undefined };
  if (field !== undefined && variables.some(({ target }) => target.path[0] === field))
    throw new Error(`${field.name} is bound by the path and by the body`);
  return {
    method,
    verb,
    template,
    variables,
    body,
    root: rootOf(body),
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

function bodyOf(method: DescMethod, name: string): Body {
  if (name === '') return { kind: 'none' };
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

function rootOf(body: Body): Binding['root'] {
  if (body.kind === 'none') return 'none';
  if (body.kind === 'whole') return 'object';
  const { field } = body;
  if (field.fieldKind === 'list') return 'array';
  if (field.fieldKind === 'map') return 'object';
  if (field.message === undefined || isWellKnown(field.message)) return 'other';
  return 'object';
}

/** Two bindings may share a verb and a place only when the root of the body, object or array, tells them apart. */
function conflicts(bindings: readonly Binding[]): string[] {
  const seen = new Map<string, Binding[]>();
  const mistakes: string[] = [];
  for (const binding of bindings) {
    const shape = binding.template.segments.map((segment) =>
      typeof segment === 'string' ? segment : `=${segment.literal}`,
    );
    const place = `${binding.verb} /${shape.join('/')}:${binding.template.verb}`;
    const others = seen.get(place) ?? [];
    const clash = others.find(
      (other) =>
        other.root === binding.root || [other, binding].some(({ root }) => root === 'none' || root === 'other'),
    );
    if (clash !== undefined) {
      mistakes.push(
        `${nameOf(binding)} and ${nameOf(clash)} have the same route ${binding.verb} ${binding.template.text}, and no JSON root tells them apart`,
      );
    }
    seen.set(place, [...others, binding]);
  }
  return mistakes;
}

function nameOf({ method }: Binding): string {
  return `${method.parent.typeName}/${method.name}`;
}
