import { useTexts } from '../i18n/use-texts.ts';
import { shellTexts } from '../shell/texts.ts';
import { Page } from '../ui/page.tsx';

export default function FindChannelPage() {
  const t = useTexts(shellTexts);
  return <Page title={t('sections.channels')}>{null}</Page>;
}
