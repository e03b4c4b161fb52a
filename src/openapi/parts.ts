import type { DescField, DescMethod } from '@bufbuild/protobuf';
import type { Binding } from '../transcode/index.ts';
import type { KnownReason } from './errors.ts';
import type { Example } from './example.ts';
import type { Schema, Schemas } from './schema.ts';

/**
 * The answers of a method: by status when it succeeded, and another body than the error's when it
 * was refused.
 */
export interface Answers {
  readonly good: Readonly<Record<number, Schema>>;
  readonly refused?: Schema;
}

export interface DocumentParts {
  readonly title: string;
  readonly description: string;
  readonly version: string;
  readonly bindings: readonly Binding[];
  /** The proto's comments by full name. */
  readonly comments: Readonly<Record<string, string>>;
  readonly examples: readonly Example[];
  /** Whether answers include a field even when it has its default. */
  readonly alwaysWritten: (field: DescField) => boolean;
  /** The answers of a method, where they differ from the plain body with 200. */
  readonly answersOf: (method: DescMethod, plain: Schema, schemas: Schemas) => Answers;
  /** The request headers of a method by name. */
  readonly headersOf: (method: DescMethod) => Readonly<Record<string, string>>;
  /** Other request bodies than JSON by content type. */
  readonly formsOf: (method: DescMethod) => Readonly<Record<string, object>>;
  /** The scope that a method needs; `any` = any credential. */
  readonly scopeOf: (method: DescMethod) => string;
  readonly securitySchemes: Readonly<Record<string, object>>;
  /** Whether calls need a credential. */
  readonly needsCredential: boolean;
  readonly reasons: readonly KnownReason[];
  /** Paths without an annotation. */
  readonly morePaths: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}
