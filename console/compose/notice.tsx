import { useTexts } from '../i18n/use-texts.ts';
import { CopyButton } from '../ui/copy.tsx';
import { uiTexts } from '../ui/texts.ts';
import { ComposeError } from './engine/client.ts';
import { useProblemWords } from './words.ts';

/** An error of the engine in words, with the id under which the service logged it. */
export function EngineNotice({ error }: { readonly error: unknown }) {
  const t = useTexts(uiTexts);
  const words = useProblemWords();
  const detail = error instanceof ComposeError ? error.detail : undefined;
  const title = detail === undefined ? String(error) : words(detail.problem);
  const text = detail?.problem.code === 'refused' ? String(detail.problem.values?.text ?? '') : '';
  return (
    <div className="notice error" role="alert">
      <p className="notice-title">{title}</p>
      {text === '' || text === title ? null : <p>{text}</p>}
      {detail?.requestId === undefined ? null : (
        <p className="notice-meta">
          <span>
            {t('requestId')} <code>{detail.requestId}</code> <CopyButton text={detail.requestId} />
          </span>
        </p>
      )}
    </div>
  );
}
