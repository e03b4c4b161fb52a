import type { RequestTemplate } from '../client/index.ts';
import type { Entry } from './source.ts';

/** Templates of the run that refused a message, as its report has them in the first line that may need them. */
export function reportedTemplates({ content }: Entry): readonly (RequestTemplate & { readonly name: string })[] {
  if (!('json' in content) || !content.json.includes('"templates"')) return [];
  try {
    const { templates, reason } = JSON.parse(content.json) as { templates?: unknown; reason?: unknown };
    return Array.isArray(templates) && typeof reason === 'string' ? templates : [];
  } catch {
    // What is wrong with the line is said where its message is made.
    return [];
  }
}
