import { Link } from 'wouter';
import { useTexts } from '../i18n/use-texts.ts';
import { Empty } from '../ui/feedback.tsx';
import { Page } from '../ui/page.tsx';
import { shellTexts } from './texts.ts';

/** Shown for an address that belongs to no page. */
export function NotFound() {
  const t = useTexts(shellTexts);
  return (
    <Page title={t('notFound')}>
      <Empty title={t('notFoundText')}>
        <Link href="/" className="button">
          {t('toStart')}
        </Link>
      </Empty>
    </Page>
  );
}
