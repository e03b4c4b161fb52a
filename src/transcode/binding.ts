import type { DescField, DescMethodUnary } from '@bufbuild/protobuf';
import type { Target } from './target.ts';
import type { Template, Variable } from './template.ts';

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
  /** Fields that the query may set although the body is the whole request. */
  readonly queryFields: readonly DescField[];
  /** Whether the body may name fields that its message does not have. */
  readonly strictFields: boolean;
  /** Whether the body may name fields in any case. */
  readonly anyCase: boolean;
  /** The answer is this field alone. */
  readonly responseBody: DescField | undefined;
}

/** What no annotation says of how a route reads its request. */
export interface RouteRules {
  /** Refuse fields of the body that its message does not have. Default: they are passed over. */
  readonly strictFields?: boolean;
  /** Take the names of the body's fields in any case, as Go's encoding/json does. Default: as they are spelled. */
  readonly anyCase?: boolean;
  /** Fields of the request that the query may set although the body is the whole of it, which HttpRule knows no way to say. */
  readonly queryFields?: readonly string[];
}

export type RulesOf = (route: { readonly method: DescMethodUnary; readonly path: string }) => RouteRules;
