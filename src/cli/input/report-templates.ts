import type { RequestTemplate } from '../../client/index.ts';
import type { Entry } from './source.ts';

type NamedTemplate = RequestTemplate & { readonly name: string };

/** Templates of an earlier run, which its report contains in the first line that may need them. */
export function reportedTemplates({ content }: Entry): readonly NamedTemplate[] {
  if (!('json' in content) || !content.json.includes('"templates"')) return [];
  try {
    const { templates, reason } = JSON.parse(content.json) as { templates?: unknown; reason?: unknown };
    return Array.isArray(templates) && typeof reason === 'string' ? templates.filter(isTemplate) : [];
  } catch {
    // An invalid line is reported where its message is created.
    return [];
  }
}

function isTemplate(value: unknown): value is NamedTemplate {
  if (typeof value !== 'object' || value === null) return false;
  const { name, body, format = 0 } = value as Record<string, unknown>;
  return typeof name === 'string' && typeof body === 'string' && Number.isSafeInteger(format);
}
