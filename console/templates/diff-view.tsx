import './diff.css';
import { useMemo } from 'react';
import type { Template } from '../../gen/client/sendbatch/v1/template_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { diffLines } from './diff.ts';
import { templateTexts } from './texts.ts';

const signs = { same: ' ', removed: '−', added: '+' } as const;

/** The changes between two versions, line by line. A sign and a hidden word repeat the colour. */
export function Diff({ from, to }: { readonly from: Template; readonly to: Template }) {
  const t = useTexts(templateTexts);
  const lines = useMemo(() => diffLines(from.body, to.body), [from.body, to.body]);
  if (lines.every(({ kind }) => kind === 'same')) return <p>{t('diff.same')}</p>;
  return (
    <figure className="stack tight">
      <figcaption className="muted small">
        {t('diff.label', { from: String(from.version), to: String(to.version) })}
      </figcaption>
      <ol className="diff payload">
        {lines.map(({ kind, text }, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a line has no other name, and the list is replaced as a whole.
          <li key={index} className={kind}>
            <span aria-hidden="true">{signs[kind]} </span>
            {kind === 'same' ? null : <span className="visually-hidden">{t(`diff.${kind}`)} </span>}
            {text}
          </li>
        ))}
      </ol>
    </figure>
  );
}
