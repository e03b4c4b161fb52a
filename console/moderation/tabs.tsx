import { useTexts } from '../i18n/use-texts.ts';
import { TabLinks } from '../ui/display.tsx';
import { moderationTexts } from './texts.ts';

export function ModerationTabs() {
  const t = useTexts(moderationTexts);
  return (
    <TabLinks
      label={t('tabs.label')}
      tabs={[
        { label: t('tabs.queue'), href: '/moderation' },
        { label: t('tabs.rules'), href: '/moderation/rules' },
        { label: t('tabs.test'), href: '/moderation/test' },
      ]}
    />
  );
}
