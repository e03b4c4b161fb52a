import { useInfiniteQuery } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import { Link, useLocation } from 'wouter';
import { MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { ChannelType } from '../../src/client/index.ts';
import { channelTypeName, channelTypes } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useSession } from '../shell/use-session.ts';
import { pathOf, useQueryParams } from '../ui/address.ts';
import { TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { channelTexts } from './texts.ts';

/** Finds a channel by its type and id, or among those of a user. */
export default function FindChannelPage() {
  const t = useTexts(channelTexts);
  const [params] = useQueryParams();
  const uid = params.get('uid') ?? '';
  return (
    <Page title={t('title')} lead={t('lead')}>
      <div className="grid">
        <OpenForm />
        <UserForm />
      </div>
      {uid === '' ? null : <ChannelsOfUser uid={uid} />}
    </Page>
  );
}

/** Types whose ids are two names. */
const hintsOfTypes: Readonly<Partial<Record<number, 'person' | 'topic' | 'agent'>>> = {
  [ChannelType.PERSON]: 'person',
  [ChannelType.COMMUNITY_TOPIC]: 'topic',
  [ChannelType.AGENT]: 'agent',
};

function OpenForm() {
  const t = useTexts(channelTexts);
  const { language } = usePreferences();
  const [, navigate] = useLocation();
  const [channelType, setType] = useState<number>(ChannelType.GROUP);
  const [channelId, setId] = useState('');
  const [isMissing, setMissing] = useState(false);
  const hint = hintsOfTypes[channelType];
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const id = channelId.trim();
    setMissing(id === '');
    if (id !== '') navigate(pathOf('channels', channelType, id));
  };
  return (
    <form className="card stack" onSubmit={submit}>
      <h2>{t('find.title')}</h2>
      <Field label={t('find.type')}>
        {(props) => (
          <select {...props} value={channelType} onChange={({ target }) => setType(Number(target.value))}>
            {channelTypes.map((type) => (
              <option key={type} value={type}>
                {`${channelTypeName(type, language)} (${type})`}
              </option>
            ))}
          </select>
        )}
      </Field>
      <Field
        label={t('find.id')}
        {...(hint === undefined ? {} : { hint: t(`find.idHints.${hint}`) })}
        error={isMissing ? t('find.idMissing') : undefined}
      >
        {(props) => (
          <input
            {...props}
            value={channelId}
            autoComplete="off"
            spellCheck={false}
            onChange={({ target }) => setId(target.value)}
          />
        )}
      </Field>
      <div>
        <button type="submit" className="button primary">
          {t('find.open')}
        </button>
      </div>
    </form>
  );
}

function UserForm() {
  const t = useTexts(channelTexts);
  const session = useSession();
  const own = session.state === 'signedIn' && session.info.caller?.isUser ? session.info.caller.name : '';
  const [params, setParams] = useQueryParams();
  const [uid, setUid] = useState(own === '' ? (params.get('uid') ?? '') : own);
  const [isMissing, setMissing] = useState(false);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setMissing(uid.trim() === '');
    if (uid.trim() !== '') setParams({ uid: uid.trim() }, { push: true });
  };
  return (
    <form className="card stack" onSubmit={submit}>
      <h2>{t('find.ofUser')}</h2>
      <Field label={t('find.uid')} error={isMissing ? t('find.uidMissing') : undefined}>
        {(props) => (
          <input
            {...props}
            value={uid}
            autoComplete="off"
            spellCheck={false}
            // A user reads as itself only.
            readOnly={own !== ''}
            onChange={({ target }) => setUid(target.value)}
          />
        )}
      </Field>
      <div>
        <button type="submit" className="button">
          {t('find.list')}
        </button>
      </div>
    </form>
  );
}

function ChannelsOfUser({ uid }: { readonly uid: string }) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const list = useInfiniteQuery(
    MessageService.method.listConversations,
    { uid, pageSize: 100, pageToken: '' },
    {
      pageParamKey: 'pageToken',
      getNextPageParam: nextPageOf,
    },
  );
  const { data, error, isPending, refetch } = list;
  if (error !== null) return <ErrorNotice error={error} onRetry={() => void refetch()} />;
  if (isPending) return <Loading />;
  const conversations = data.pages.flatMap((page) => page.conversations);
  if (conversations.length === 0) return <Empty title={t('find.none')} />;
  return (
    <>
      <TableScroll label={t('find.table', { uid })}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t('find.channel')}</th>
              <th scope="col">{t('find.last')}</th>
              <th scope="col" className="number">
                {t('find.messages')}
              </th>
              <th scope="col" className="number">
                {t('find.unread')}
              </th>
            </tr>
          </thead>
          <tbody>
            {conversations.map(({ channelType, channelId, lastSeq, unreadCount, lastMessage }) => (
              <tr key={`${channelType}/${channelId}`}>
                <th scope="row">
                  <Link
                    href={pathOf(
                      'channels',
                      channelType,
                      channelType === ChannelType.PERSON ? `${uid}@${channelId}` : channelId,
                    )}
                  >
                    {channelId}
                  </Link>
                  <div className="muted small">{channelTypeName(channelType, language)}</div>
                </th>
                <td className="nowrap">
                  <Time value={lastMessage?.timestamp} />
                </td>
                <td className="number">{format.number(lastSeq)}</td>
                <td className="number">{format.number(unreadCount)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </TableScroll>
      <MoreButton {...list} />
    </>
  );
}
