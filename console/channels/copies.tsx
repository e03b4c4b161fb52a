import { useInfiniteQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { ChangeKind, MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ErrorNotice, Loading } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import type { MessageDetailsProps } from './message-panel.tsx';
import { PayloadView } from './payload-view.tsx';
import { channelTexts } from './texts.ts';

const pageSize = 20;

/** The contents that edits and a recall replaced, oldest first; read when the user asks. */
export function Copies({ channel, message: { messageSeq } }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const [isAsked, setAsked] = useState(false);
  const list = useInfiniteQuery(
    MessageService.method.listMessageCopies,
    { ...channel, messageSeq, pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf, enabled: isAsked, staleTime: 0 },
  );
  const copies = list.data?.pages.flatMap((page) => page.copies) ?? [];
  return (
    <section className="stack tight" aria-labelledby="copies">
      <div className="row spread">
        <h3 id="copies">{t('copies.title')}</h3>
        {isAsked ? null : (
          <button type="button" className="button small" onClick={() => setAsked(true)}>
            {t('copies.show')}
          </button>
        )}
      </div>
      {list.isLoading ? <Loading /> : null}
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.data !== undefined && copies.length === 0 ? <p className="muted">{t('copies.none')}</p> : null}
      {copies.map((copy) => (
        <div className="stack tight" key={copy.revision}>
          <p className="muted small">
            {copy.revision === 0 ? t('copies.sent') : t('copies.revision', { revision: String(copy.revision) })}
            {copy.replacedAt === undefined
              ? ''
              : ` · ${t(copy.replacedBy === ChangeKind.RECALLED ? 'copies.recalled' : 'copies.edited', {
                  time: format.time(copy.replacedAt),
                })}`}
          </p>
          <PayloadView payload={copy.payload} />
        </div>
      ))}
      <MoreButton {...list} />
    </section>
  );
}
