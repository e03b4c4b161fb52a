import { useTexts } from '../i18n/use-texts.ts';
import { shellTexts } from '../shell/texts.ts';
import { Page } from '../ui/page.tsx';

export default function BatchPage() {
  const t = useTexts(shellTexts);
  return <Page title={t('sections.batches')}>{null}</Page>;
}
