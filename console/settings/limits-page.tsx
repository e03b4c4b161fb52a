import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Limits } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useSession } from '../shell/use-session.ts';
import { TableScroll } from '../ui/display.tsx';
import { Page } from '../ui/page.tsx';
import { SettingTabs } from './tabs.tsx';
import { settingTexts } from './texts.ts';

const counts = [
  'batchMessages',
  'batchMessagesAdvised',
  'batchChannels',
  'broadcastSubscribers',
  'messageSubscribers',
  'submitMessages',
  'pageMessages',
  'subscribeChannels',
  'listChange',
  'idBytes',
  'clientMsgNoBytes',
  'requestIdBytes',
  'scheduleDays',
] as const satisfies readonly (keyof Limits)[];
const sizes = [
  'payloadBytes',
  'templateBytes',
  'requestBytes',
  'submitBytes',
  'pageBytes',
] as const satisfies readonly (keyof Limits)[];

/** The limits that callers have to keep, as GetServerInfo answers them. */
export default function LimitsPage() {
  const t = useTexts(settingTexts);
  const format = useFormat();
  const session = useSession();
  const limits = session.state === 'signedIn' ? session.info.limits : undefined;
  const row = (name: (typeof counts)[number] | (typeof sizes)[number] | 'requestTimeout', value: string) => (
    <tr key={name}>
      <th scope="row">{t(`limits.${name}`)}</th>
      <td className="number">{value}</td>
    </tr>
  );
  return (
    <Page title={t('title')} lead={t('limits.lead')}>
      <SettingTabs />
      {limits === undefined ? null : (
        <TableScroll label={t('limits.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('limits.name')}</th>
                <th scope="col" className="number">
                  {t('limits.value')}
                </th>
              </tr>
            </thead>
            <tbody>
              {counts.map((name) => row(name, format.number(limits[name])))}
              {sizes.map((name) => row(name, format.bytes(limits[name])))}
              {limits.requestTimeout === undefined
                ? null
                : row('requestTimeout', format.duration(durationMs(limits.requestTimeout)))}
            </tbody>
          </table>
        </TableScroll>
      )}
    </Page>
  );
}
