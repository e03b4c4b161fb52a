import { Link } from 'wouter';
import { channelTypeName, channelTypes } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { NotFound } from '../shell/not-found.tsx';
import { useHasScope } from '../shell/use-session.ts';
import { pathOf, useSegments } from '../ui/address.ts';
import { Badge, TabLinks } from '../ui/display.tsx';
import { Empty } from '../ui/feedback.tsx';
import { Page } from '../ui/page.tsx';
import { useChannelAddress } from './channel.ts';
import { Flags } from './flags.tsx';
import { Lists } from './lists.tsx';
import { Messages } from './messages.tsx';
import { channelTexts } from './texts.ts';
import './channels.css';

const parts = ['messages', 'lists', 'settings'];

/** One channel: its messages, its members and lists, its settings, each under an address. */
export default function ChannelPage() {
  const t = useTexts(channelTexts);
  const { language } = usePreferences();
  const channel = useChannelAddress();
  const [, , , part = 'messages'] = useSegments();
  const isAdmin = useHasScope('admin');
  if (!channelTypes.includes(channel.channelType) || !parts.includes(part)) return <NotFound />;
  const base = pathOf('channels', channel.channelType, channel.channelId);
  return (
    <Page
      title={channel.channelId}
      lead={
        <>
          <Link href="/channels">{t('back')}</Link> <Badge>{channelTypeName(channel.channelType, language)}</Badge>
        </>
      }
    >
      {isAdmin ? (
        <TabLinks
          label={t('tabs.label')}
          tabs={[
            { label: t('tabs.messages'), href: base },
            { label: t('tabs.lists'), href: `${base}/lists` },
            { label: t('tabs.flags'), href: `${base}/settings` },
          ]}
        />
      ) : null}
      {part === 'messages' ? <Messages channel={channel} /> : null}
      {part !== 'messages' && !isAdmin ? <Empty title={t('lists.noAccess')} /> : null}
      {part === 'lists' && isAdmin ? <Lists channel={channel} /> : null}
      {part === 'settings' && isAdmin ? <Flags channel={channel} /> : null}
    </Page>
  );
}
