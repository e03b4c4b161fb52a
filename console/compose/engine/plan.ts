import type { Columns, Mapping } from '../../../src/message-files/mapping.ts';

/** A template for the messages of one batch. */
export interface TemplateText {
  readonly body: string;
  readonly format: 'text' | 'json';
}

/** What a message says. */
export type Content =
  /** Each line of the file is a complete message. `isBase64`: its payload, if that is a string. */
  | { readonly kind: 'lines'; readonly isBase64: boolean }
  | { readonly kind: 'column'; readonly column: string; readonly isBase64: boolean }
  | { readonly kind: 'text'; readonly template: TemplateText }
  | {
      readonly kind: 'stored';
      readonly name: string;
      readonly version: number;
      /** The template's text, for the preview; undefined if the user may not read it. */
      readonly template: TemplateText | undefined;
    };

/** How the rows of a table become messages. */
export interface Plan {
  /** Columns by field, without the payload. */
  readonly columns: Columns;
  /** Values for all rows, where no column fills the field or its cell is empty. */
  readonly defaults: Mapping['defaults'];
  readonly content: Content;
  /** Only the first row per value of this column is sent. */
  readonly uniqueColumn: string | undefined;
}

/** The mapping of the command line that equals a plan. */
export function mappingOf(plan: Plan, templateName: string): Mapping {
  const { content } = plan;
  // Defaults fill what a line lacks; the reader would refuse a line that has another value.
  if (content.kind === 'lines')
    return { defaults: {}, columns: {}, ignored: [], template: undefined, payloadBase64: true, takesSendAt: true };
  return {
    defaults: plan.defaults,
    columns: content.kind === 'column' ? { ...plan.columns, payload: content.column } : plan.columns,
    ignored: [],
    template:
      content.kind === 'stored'
        ? { name: content.name, version: content.version }
        : content.kind === 'text'
          ? { name: templateName, version: 0 }
          : undefined,
    payloadBase64: content.kind === 'column' && content.isBase64,
    takesSendAt: true,
  };
}

/** The name of a batch's own template; messages refer to it. */
export const ownTemplate = 'console';
