import { usePreferences } from '../i18n/preferences.ts';
import { reasonInWords } from '../i18n/reasons.ts';
import { useTexts } from '../i18n/use-texts.ts';
import type { Problem, ProblemCode } from './files/problem.ts';
import { composeTexts } from './texts.ts';

const compressed = ['zip', 'gzip', 'zstd', 'bzip2', 'xz', '7-zip', 'rar', 'tar'];
const ownBinaries = ['old-office', 'pdf', 'image', 'xlsb', 'document', 'open-document', 'numbers'] as const;
const namedFields = ['channel_id', 'channel_type', 'from_uid', 'payload'] as const;

/** Problems in the user's language. */
export function useProblemWords(): (problem: Problem) => string {
  const t = useTexts(composeTexts);
  const { language } = usePreferences();
  return ({ code, values = {} }) => {
    switch (code) {
      case 'refused':
        return refusalWords(String(values.reason ?? ''), String(values.text ?? ''));
      case 'template':
        return templateWords(String(values.text ?? ''));
      case 'binary':
        return t('problems.binary', { kind: binaryWords(String(values.kind)) });
      case 'required':
        return t('problems.required', { field: fieldWords(String(values.field)) });
      default:
        // Values that a text does not name are ignored.
        return t(`problems.${code as Exclude<ProblemCode, 'refused'>}`, withDefaults(values) as never);
    }
  };

  /** The usual mistakes of a template; others as liquidjs words them. */
  function templateWords(text: string): string {
    const [, open] = /^(?:output|tag) "?(.+?)"? not closed/.exec(text) ?? [];
    if (open !== undefined) return t('faults.notClosed', { text: open });
    const [, filter] = /^undefined filter: ([^,]+)/.exec(text) ?? [];
    if (filter !== undefined) return t('faults.filter', { name: filter });
    const [, tag] = /^tag "(.+)" not found/.exec(text) ?? [];
    if (tag !== undefined) return t('faults.tag', { name: tag });
    if (text.startsWith('invalid value expression')) return t('faults.expression');
    if (text.includes('the output is empty')) return t('faults.emptyOutput');
    if (text.includes('not valid JSON')) return t('faults.notJson');
    return t('problems.template', { text });
  }

  function refusalWords(reason: string, text: string): string {
    if (reason === 'Canceled') return t('problems.canceled');
    const words = reason === 'INVALID_FIELD' ? undefined : reasonInWords(reason, language);
    return words ?? (text || reason);
  }

  function binaryWords(kind: string): string {
    const own = ownBinaries.find((each) => each === kind);
    return t(`binaries.${own ?? (compressed.includes(kind) ? 'compressed' : 'other')}`);
  }

  function fieldWords(field: string): string {
    const own = namedFields.find((each) => each === field);
    return own === undefined ? field : t(`fields.${own}`);
  }
}

/** A text whose value is not known still reads well. */
function withDefaults(values: Readonly<Record<string, string | number>>): Readonly<Record<string, string | number>> {
  return { field: '', value: '', text: '', names: '', encoding: '', column: '', ...values };
}
