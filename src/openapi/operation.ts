import type { DescField, DescMethod } from '@bufbuild/protobuf';
import { type Binding, leafOf, queryTargets, spellTarget, type Target } from '../transcode/index.ts';
import { type ErrorResponse, errorRef } from './errors.ts';
import { type Example, keyOf } from './example.ts';
import type { Answers, DocumentParts } from './parts.ts';
import { rulesOf } from './rules.ts';
import type { Schema, Schemas } from './schema.ts';

/** What the document knows of errors. */
interface Errors {
  /** Returns the statuses of the reasons that a text names. */
  readonly statusesIn: (text: string) => number[];
  /** The error responses by component name. */
  readonly responses: Readonly<Record<string, ErrorResponse>>;
}

interface Operation {
  /** In lower case, as in a path item. */
  readonly verb: string;
  readonly path: string;
  readonly operation: object;
}

/** Statuses that every call can return. */
const always = [400, 403, 500, 503, 504];
const json = 'application/json';

/**
 * Returns the operations of the bindings. Bindings that differ only in the root of their body are
 * one operation.
 */
export function operationsOf(parts: DocumentParts, schemas: Schemas, errors: Errors): Operation[] {
  const routes = new Map<string, Binding[]>();
  for (const binding of parts.bindings)
    for (const verb of verbsOf(binding)) {
      const route = `${verb} ${pathOf(binding)}`;
      routes.set(route, [...(routes.get(route) ?? []), binding]);
    }
  const used = new Map<string, number>();
  return [...routes].map(([route, bindings]) => {
    const [verb = '', path = ''] = route.split(' ');
    const name = bindings.map(({ method }) => method.name).join('Or');
    const count = (used.get(name) ?? 0) + 1;
    used.set(name, count);
    const operationId = count === 1 ? name : `${name}${count}`;
    const examples = parts.examples.filter((example) => example.route === route);
    const operation = operationOf(bindings, { ...parts, examples }, schemas, errors);
    return { verb: verb.toLowerCase(), path, operation: { operationId, ...operation } };
  });
}

const everyVerb = ['GET', 'PUT', 'POST', 'DELETE', 'PATCH'];

function verbsOf({ verb }: Binding): readonly string[] {
  return verb === '*' ? everyVerb : [verb];
}

/** Formats a template for OpenAPI: variables by name only, unnamed wildcards by position. */
function pathOf({ template: { segments, variables, verb } }: Binding): string {
  const out: string[] = [];
  for (let index = 0; index < segments.length; index++) {
    const variable = variables.find((each) => each.start === index);
    const segment = segments[index];
    if (variable !== undefined) {
      out.push(`{${variable.fieldPath.join('.')}}`);
      index = variable.end - 1;
    } else out.push(typeof segment === 'object' ? encodeURIComponent(segment.literal) : `{segment${index + 1}}`);
  }
  return `/${out.join('/')}${verb === '' ? '' : `:${encodeURIComponent(verb)}`}`;
}

function operationOf(bindings: readonly Binding[], parts: DocumentParts, schemas: Schemas, errors: Errors): object {
  const methods = bindings.map(({ method }) => method);
  const comments = methods.map((method) => parts.comments[nameOf(method)] ?? '');
  const scopes = [...new Set(methods.map(parts.scopeOf))];
  const named = scopes.filter((scope) => scope !== 'any');
  const needs = `Needs ${named.length === 0 ? 'any credential' : `the scope \`${named.join('`, `')}\``}, where credentials are required.`;
  const parameters = mergeParameters(bindings.map((binding) => parametersOf(binding, parts, schemas)));
  const body = bodyOf(bindings, parts, schemas);
  const statuses = new Set([
    ...always,
    ...(parts.needsCredential ? [401] : []),
    ...(body === undefined ? [] : [413]),
    ...(named.includes('send') ? [404, 409, 429] : []),
    // An object named in the path may be missing.
    ...(bindings.some(({ variables }) => variables.length > 0) ? [404] : []),
    ...comments.flatMap(errors.statusesIn),
    ...parts.examples.map(({ status }) => status),
  ]);
  const known = new Set(parts.reasons.map(({ http }) => http));
  return {
    tags: [...new Set(methods.map((method) => method.parent.name))],
    summary: comments.map(summaryOf).join(' · '),
    description: [
      ...methods.map((method, index) => describe(method, comments[index] ?? '', methods.length)),
      needs,
    ].join('\n\n'),
    ...(named.length === 0 || !parts.needsCredential
      ? {}
      : { security: Object.keys(parts.securitySchemes).map((name) => ({ [name]: named })) }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: body }),
    responses: responsesOf(
      bindings.map((binding) => answersOf(binding, parts, schemas)),
      { statuses: [...statuses].filter((status) => known.has(status)), responses: errors.responses },
      parts.examples,
    ),
  };
}

/** With several methods at one path, each description starts with the method's name. */
function describe({ name }: DescMethod, comment: string, count: number): string {
  return count === 1 ? comment : `**${name}**: ${comment}`;
}

function nameOf(method: DescMethod): string {
  return `${method.parent.typeName}.${method.name}`;
}

/** Returns the first sentence as plain text: a summary is not Markdown. */
function summaryOf(comment: string): string {
  const sentence = /^[\s\S]*?[.:;](?=\s|$)/.exec(comment)?.[0] ?? comment;
  return sentence
    .replace(/\s+/g, ' ')
    .replace(/[.:;]$/, '')
    .replaceAll('`', '');
}

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly [more: string]: unknown;
}

function parametersOf(binding: Binding, parts: DocumentParts, schemas: Schemas): Parameter[] {
  const [example] = parts.examples;
  const parameter = (place: 'path' | 'query', target: Target, name: string): Parameter => {
    const field = leafOf(target);
    const value = (place === 'path' ? example?.path : example?.query)?.[name];
    const description = parts.comments[`${field.parent.typeName}.${field.name}`];
    const isRequired = place === 'path' || (target.length === 1 && rulesOf(field).required);
    return {
      name,
      in: place,
      ...(isRequired ? { required: true } : {}),
      ...(description === undefined ? {} : { description }),
      schema: schemas.text(field),
      ...(value === undefined ? {} : { example: value }),
    };
  };
  const headers = Object.entries(parts.headersOf(binding.method)).map(([name, description]) => ({
    name,
    in: 'header',
    description,
    schema: { type: 'string' },
  }));
  return [
    ...binding.variables.map(({ variable, target }) => parameter('path', target, variable.fieldPath.join('.'))),
    ...queryTargets(binding).map((target) => parameter('query', target, spellTarget(target))),
    ...headers,
  ];
}

/** A parameter is required when every binding requires it. */
function mergeParameters(lists: readonly Parameter[][]): Parameter[] {
  const merged = new Map<string, Parameter>();
  for (const parameter of lists.flat()) merged.set(`${parameter.in} ${parameter.name}`, parameter);
  return [...merged].map(([key, parameter]) => {
    const isEverywhere = lists.every((list) => list.some((each) => `${each.in} ${each.name}` === key));
    if (isEverywhere) return parameter;
    const { required, ...optional } = parameter;
    return optional as Parameter;
  });
}

function bodyOf(
  bindings: readonly Binding[],
  { examples, formsOf }: DocumentParts,
  schemas: Schemas,
): object | undefined {
  const taking = bindings.filter(({ body }) => body.kind !== 'none');
  if (taking.length === 0) return undefined;
  const shown = examples.filter((each) => each.body !== undefined);
  return {
    required: true,
    content: {
      [json]: {
        schema: anyOf(
          taking.map((binding) => bodySchema(binding, schemas)),
          'oneOf',
        ),
        ...examplesOf(shown, (each) => each.body),
      },
      ...Object.assign({}, ...taking.map(({ method }) => formsOf(method))),
    },
  };
}

function bodySchema({ body, method, variables }: Binding, schemas: Schemas): Schema {
  if (body.kind === 'field') return schemas.field(body.field, 'input');
  const bound = new Set<DescField>(
    variables.filter(({ target }) => target.length === 1).map(({ target }) => target[0]),
  );
  return bound.size === 0 ? schemas.message(method.input, 'input') : schemas.without(method.input, bound);
}

function answersOf({ method, responseBody }: Binding, parts: DocumentParts, schemas: Schemas): Answers {
  const plain =
    responseBody === undefined ? schemas.message(method.output, 'output') : schemas.field(responseBody, 'output');
  return parts.answersOf(method, plain, schemas);
}

const statusTexts: Readonly<Record<number, string>> = {
  200: 'Success.',
  207: 'Some messages were refused; each result has its own outcome.',
};

function responsesOf(
  answers: readonly Answers[],
  refused: { readonly statuses: readonly number[]; readonly responses: Errors['responses'] },
  examples: readonly Example[],
): Record<string, object> {
  const responses: Record<string, object> = {};
  const good = new Set(answers.flatMap((each) => Object.keys(each.good).map(Number)));
  for (const status of [...good].sort((a, b) => a - b)) {
    const shown = examples.filter((each) => each.status === status);
    const schema = anyOf(
      answers.map((each) => each.good[status]).filter((each) => each !== undefined),
      'anyOf',
    );
    responses[status] = {
      description: statusTexts[status] ?? '',
      content: {
        [json]: {
          schema,
          ...examplesOf(shown, (each) => each.answer),
        },
      },
    };
  }
  const others = answers.map((each) => each.refused).filter((each) => each !== undefined);
  for (const status of refused.statuses.toSorted((a, b) => a - b)) {
    const shown = examples.filter((each) => each.status === status);
    responses[status] = refusalOf(status, others, shown, refused.responses[`Error${status}`]);
  }
  return responses;
}

/** Returns the error response of a status, with this operation's own examples first. */
function refusalOf(
  status: number,
  others: readonly Schema[],
  shown: readonly Example[],
  base: ErrorResponse | undefined,
): object {
  if (others.length === 0 && shown.length === 0) return errorRef(status);
  const { description = '', content } = base ?? {};
  const schema = anyOf([{ $ref: '#/components/schemas/Error' }, ...others], 'anyOf');
  const { examples: own = {} } = examplesOf(shown, (each) => each.answer);
  return {
    description: others.length === 0 ? description : `${description}\n\nOr the results, when no message was accepted.`,
    content: { [json]: { schema, examples: { ...own, ...content?.[json].examples } } },
  };
}

function examplesOf(shown: readonly Example[], contentOf: (example: Example) => unknown): { examples?: object } {
  if (shown.length === 0) return {};
  const rows = shown.map((each) => [keyOf(each), { summary: each.summary, value: contentOf(each) }]);
  return { examples: Object.fromEntries(rows) };
}

function anyOf(schemas: readonly Schema[], keyword: 'anyOf' | 'oneOf'): Schema {
  const [only] = schemas;
  return schemas.length === 1 && only !== undefined ? only : { [keyword]: schemas };
}
