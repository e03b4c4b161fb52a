/**
 * The OpenAPI 3.1 document of the JSON routes, and the examples that it shows.
 *
 * - `createDocument` builds it from the bindings that serve the routes, the proto's validation
 *   rules and the proto's comments, so a served route cannot be missing.
 * - `operation` builds paths, `schema` and `rules` build schemas, `errors` the error responses;
 *   `more-paths` lists by hand what no annotation describes.
 * - `examples/` is data: a test posts every example and compares the answer.
 */
import type { DescMessage } from '@bufbuild/protobuf';
import { errorComponents, reasonsIn, reasonTexts } from './errors.ts';
import { operationsOf } from './operation.ts';
import type { DocumentParts } from './parts.ts';
import { createSchemas, type Schema } from './schema.ts';

/** An OpenAPI document. */
export type Document = { readonly paths: Readonly<Record<string, Readonly<Record<string, unknown>>>> } & Readonly<
  Record<string, unknown>
>;

/**
 * Creates the OpenAPI 3.1 document of the JSON routes.
 *
 * Paths, parameters and bodies come from the bindings that serve them, bounds from the proto's
 * rules, texts from its comments. A newly served service appears by itself.
 */
export function createDocument(parts: DocumentParts): Document {
  const { bindings, comments } = parts;
  const answers: DescMessage[] = bindings.map(({ method }) => method.output);
  const schemas = createSchemas({ comments, alwaysWritten: parts.alwaysWritten, answers });
  const texts = reasonTexts(Object.values(comments));
  const paths: Record<string, Record<string, unknown>> = {};
  const errors = errorComponents(parts.reasons, texts);
  const said = { statusesIn: (text: string) => reasonsIn(text, parts.reasons), responses: errors.responses };
  for (const { verb, path, operation } of operationsOf(parts, schemas, said))
    paths[path] = { ...paths[path], [verb]: operation };
  for (const [path, item] of Object.entries(parts.morePaths)) paths[path] = { ...paths[path], ...item };
  const services = [...new Set(bindings.map(({ method }) => method.parent))];
  return {
    openapi: '3.1.0',
    info: {
      title: parts.title,
      version: parts.version,
      description: [parts.description, ...services.map(({ typeName }) => split(comments[typeName]).tables)]
        .join('\n\n')
        .trim(),
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    // Relative to the document: a proxy may serve it under a path.
    servers: [{ url: './', description: 'This service.' }],
    tags: [
      ...services.map(({ name, typeName }) => ({ name, description: split(comments[typeName]).words })),
      { name: 'Operation', description: 'Probes and this document.' },
    ],
    // `{}` first, which means "no credential needed", while the service asks for none.
    security: [
      ...(parts.needsCredential ? [] : [{}]),
      ...Object.keys(parts.securitySchemes).map((name) => ({ [name]: [] })),
    ],
    paths,
    components: {
      schemas: sorted(referred([paths, errors.responses], { ...schemas.components, ...errors.schemas })),
      responses: errors.responses,
      securitySchemes: parts.securitySchemes,
    },
  };
}

/**
 * Separates a service's description from its tables and their introduction, which apply to all
 * services and are too wide for a heading.
 */
function split(comment = ''): { words: string; tables: string } {
  if (!/^\|/m.test(comment)) return { words: comment, tables: '' };
  const [words = '', ...tables] = comment.split('\n\n');
  return { words, tables: tables.join('\n\n') };
}

/** Returns the components that are referenced, directly or indirectly. */
function referred(from: unknown, all: Readonly<Record<string, Schema>>): Record<string, Schema> {
  const found: Record<string, Schema> = {};
  const look = (value: unknown) => {
    for (const [, name = ''] of JSON.stringify(value).matchAll(/"#\/components\/schemas\/([\w.]+)"/g)) {
      const schema = all[name];
      if (schema === undefined || Object.hasOwn(found, name)) continue;
      found[name] = schema;
      look(schema);
    }
  };
  look(from);
  return found;
}

function sorted<T>(record: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
