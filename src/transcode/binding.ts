import type { DescField, DescMethodUnary } from '@bufbuild/protobuf';
import type { Target } from './target.ts';
import type { Template, Variable } from './template.ts';

/** What a binding takes from the body: nothing, the whole request, or one field. */
export type Body =
  | { readonly kind: 'none' }
  | { readonly kind: 'whole' }
  | { readonly kind: 'field'; readonly field: DescField };

/** One route: a verb and a path template that call a method. */
export interface Binding {
  readonly method: DescMethodUnary;
  /** An HTTP method, or `*` for any. */
  readonly verb: string;
  readonly template: Template;
  readonly variables: readonly { readonly variable: Variable; readonly target: Target }[];
  readonly body: Body;
  /** The JSON type of the body's root. */
  readonly root: 'none' | 'object' | 'array' | 'other';
  /** Fields that the query may set although the body is the whole request. */
  readonly queryFields: readonly DescField[];
  /** Whether unknown fields in the body are refused. */
  readonly strictFields: boolean;
  /** Whether field names in the body are case-insensitive. */
  readonly anyCase: boolean;
  /** The field that is the whole answer; undefined = the message. */
  readonly responseBody: DescField | undefined;
}

/** How a route reads its request, where annotations have no say. */
export interface RouteRules {
  /** Refuse unknown fields in the body. Default: ignore them. */
  readonly strictFields?: boolean;
  /** Accept field names in any case, like Go's encoding/json. Default: exact names. */
  readonly anyCase?: boolean;
  /**
   * Fields that the query may set although the body is the whole request, which HttpRule cannot
   * express.
   */
  readonly queryFields?: readonly string[];
}

export type RulesOf = (route: { readonly method: DescMethodUnary; readonly path: string }) => RouteRules;
