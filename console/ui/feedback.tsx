import type { ReactNode } from 'react';
import { callErrorOf } from '../api/errors.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { reasonInWords } from '../i18n/reasons.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { CopyButton } from './copy.tsx';
import { uiTexts } from './texts.ts';

/** Says that something is being loaded; screen readers hear it once. */
export function Loading({ label }: { readonly label?: string }) {
  const t = useTexts(uiTexts);
  return (
    <p className="loading" role="status">
      <span className="spinner" aria-hidden="true" />
      {label ?? t('loading')}
    </p>
  );
}

/** What a list shows instead of rows, with a way on. */
export function Empty({ title, children }: { readonly title: string; readonly children?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children}
    </div>
  );
}

export interface ErrorNoticeProps {
  readonly error: unknown;
  readonly title?: string;
  /** Shows a button that calls it. */
  readonly onRetry?: () => void;
}

/** An error of a call in words, with the id that the service's log has for it. */
export function ErrorNotice({ error, title, onRetry }: ErrorNoticeProps) {
  const t = useTexts(uiTexts);
  const { language } = usePreferences();
  const { reason, message, requestId, isRetryable } = callErrorOf(error);
  const words = reason === undefined ? undefined : reasonInWords(reason, language);
  const wasReached = reason !== undefined || requestId !== undefined;
  return (
    <div className="notice error" role="alert">
      <p className="notice-title">{title ?? words ?? t('errorTitle')}</p>
      <p>{!wasReached && isRetryable ? t('unreachable') : message}</p>
      {reason === undefined && requestId === undefined ? null : (
        <p className="notice-meta">
          {reason === undefined ? null : <code>{reason}</code>}
          {requestId === undefined ? null : (
            <span>
              {t('requestId')} <code>{requestId}</code> <CopyButton text={requestId} />
            </span>
          )}
        </p>
      )}
      {onRetry === undefined ? null : (
        <button type="button" className="button" onClick={onRetry}>
          {t('retry')}
        </button>
      )}
    </div>
  );
}

export type NoticeKind = 'info' | 'success' | 'warning';

export function Notice({ kind = 'info', children }: { readonly kind?: NoticeKind; readonly children: ReactNode }) {
  return (
    <div className={`notice ${kind}`} role={kind === 'info' ? undefined : 'status'}>
      {children}
    </div>
  );
}
