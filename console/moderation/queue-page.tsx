import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import { useState } from 'react';
import { type Flagged, ModerationService } from '../../gen/client/sendbatch/v1/moderation_service_pb.ts';
import { ChannelLink } from '../channels/channel-link.tsx';
import { previewOf } from '../channels/payload.ts';
import { channelTypeName } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { useChosen } from '../ui/use-chosen.ts';
import { ModerationTabs } from './tabs.tsx';
import { moderationTexts } from './texts.ts';

const pageSize = 50;
const refreshMs = 15_000;
/** Messages that one call may mark. */
const maxReviewed = 1_000;

/** Flagged messages, to be marked as reviewed. */
export default function QueuePage() {
  const t = useTexts(moderationTexts);
  const list = useInfiniteQuery(
    ModerationService.method.listFlagged,
    { pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf, refetchInterval: refreshMs },
  );
  const flagged = list.data?.pages.flatMap((page) => page.flagged) ?? [];
  const ids = flagged.map(({ messageId }) => messageId);
  const chosen = useChosen(ids, maxReviewed);
  const [reviewed, setReviewed] = useState(0);
  const review = useMutation(ModerationService.method.reviewFlagged, {
    onSuccess: () => {
      setReviewed(chosen.ids.length);
      chosen.clear();
      void list.refetch();
    },
  });
  return (
    <Page title={t('title')} lead={t('queue.lead')}>
      <ModerationTabs />
      {review.isSuccess && reviewed > 0 ? <Notice kind="success">{t('queue.done', { count: reviewed })}</Notice> : null}
      {review.error === null ? null : <ErrorNotice error={review.error} />}
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending ? <Loading /> : null}
      {list.data !== undefined && flagged.length === 0 ? (
        <Empty title={t('queue.empty')}>
          <p>{t('queue.emptyText')}</p>
        </Empty>
      ) : null}
      {flagged.length === 0 ? null : (
        <>
          <div className="row">
            <button
              type="button"
              className="button primary"
              disabled={chosen.ids.length === 0 || review.isPending}
              onClick={() => review.mutate({ messageIds: [...chosen.ids] })}
            >
              {t('queue.reviewed')}
            </button>
            <span role="status" className="muted">
              {t('queue.chosen', { count: chosen.ids.length })}
            </span>
          </div>
          <TableScroll label={t('queue.table')}>
            <table>
              <thead>
                <tr>
                  <th scope="col">
                    <input
                      type="checkbox"
                      aria-label={t('queue.selectAll')}
                      checked={chosen.ids.length === ids.length}
                      onChange={({ target }) => chosen.choose(ids, target.checked)}
                    />
                  </th>
                  <th scope="col">{t('queue.message')}</th>
                  <th scope="col">{t('queue.channel')}</th>
                  <th scope="col">{t('queue.from')}</th>
                  <th scope="col">{t('queue.rules')}</th>
                  <th scope="col">{t('queue.flagged')}</th>
                </tr>
              </thead>
              <tbody>
                {flagged.map((message) => (
                  <Row
                    key={message.messageId.toString()}
                    message={message}
                    isChosen={chosen.has(message.messageId)}
                    onChoose={(isChosen) => chosen.choose([message.messageId], isChosen)}
                  />
                ))}
              </tbody>
            </table>
          </TableScroll>
        </>
      )}
      <MoreButton {...list} />
    </Page>
  );
}

interface RowProps {
  readonly message: Flagged;
  readonly isChosen: boolean;
  readonly onChoose: (isChosen: boolean) => void;
}

function Row({ message, isChosen, onChoose }: RowProps) {
  const t = useTexts(moderationTexts);
  const { language } = usePreferences();
  const { messageId, messageSeq, channelType, channelId, payload, ruleIds } = message;
  return (
    <tr>
      <td>
        <input
          type="checkbox"
          aria-label={t('queue.selectOne', { id: messageId.toString() })}
          checked={isChosen}
          onChange={({ target }) => onChoose(target.checked)}
        />
      </td>
      <td className="breakable">
        {payload.length === 0 ? <span className="muted">{t('queue.gone')}</span> : previewOf(payload)}
      </td>
      <td>
        <ChannelLink channelType={channelType} channelId={channelId} seq={messageSeq}>
          {channelId}
        </ChannelLink>
        <div className="muted small">{channelTypeName(channelType, language)}</div>
      </td>
      <td className="breakable">{message.fromUid}</td>
      <td>{ruleIds.map((id) => (id === 0n ? t('queue.hook') : t('queue.rule', { id: id.toString() }))).join(', ')}</td>
      <td className="nowrap">
        <Time value={message.flaggedAt} />
      </td>
    </tr>
  );
}
