import type { DescField, DescMethod } from '@bufbuild/protobuf';
import type { Binding } from '../transcode/index.ts';
import type { KnownReason } from './errors.ts';
import type { Example } from './example.ts';
import type { Schema, Schemas } from './schema.ts';

/** What is answered: by status when a call went well, and another body than the error's when it did not. */
export interface Answers {
  readonly good: Readonly<Record<number, Schema>>;
  readonly refused?: Schema;
}

export interface DocumentParts {
  readonly title: string;
  readonly description: string;
  readonly version: string;
  readonly bindings: readonly Binding[];
  /** What the proto says, by full names. */
  readonly comments: Readonly<Record<string, string>>;
  readonly examples: readonly Example[];
  /** Whether the answer of a route has a field also when it has its default. */
  readonly alwaysWritten: (field: DescField) => boolean;
  /** What a method answers, where that is not its plain body with 200. */
  readonly answersOf: (method: DescMethod, plain: Schema, schemas: Schemas) => Answers;
  /** Headers that a method takes, by their names. */
  readonly headersOf: (method: DescMethod) => Readonly<Record<string, string>>;
  /** Other forms of a method's body than JSON, by their types. */
  readonly formsOf: (method: DescMethod) => Readonly<Record<string, object>>;
  /** The scope that a method needs; `any`: any credential. */
  readonly scopeOf: (method: DescMethod) => string;
  readonly securitySchemes: Readonly<Record<string, object>>;
  /** Whether a credential is asked for. */
  readonly asks: boolean;
  readonly reasons: readonly KnownReason[];
  /** Paths that no annotation has. */
  readonly morePaths: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}
