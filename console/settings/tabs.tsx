import { useTexts } from '../i18n/use-texts.ts';
import { TabLinks } from '../ui/display.tsx';
import { settingTexts } from './texts.ts';

export function SettingTabs() {
  const t = useTexts(settingTexts);
  return (
    <TabLinks
      label={t('tabs.label')}
      tabs={[
        { label: t('tabs.settings'), href: '/settings' },
        { label: t('tabs.limits'), href: '/settings/limits' },
      ]}
    />
  );
}
