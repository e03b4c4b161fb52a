import { useInfiniteQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ErrorNotice, Loading } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import type { MessageDetailsProps } from './message-panel.tsx';
import { channelTexts } from './texts.ts';

const pageSize = 200;

/** Who has read the message; read when the user asks, because it reads the cursors of all receivers. */
export function Readers({ channel, message: { messageSeq } }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const [isAsked, setAsked] = useState(false);
  const list = useInfiniteQuery(
    MessageService.method.listReaders,
    { ...channel, messageSeq, pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf, enabled: isAsked, staleTime: 0 },
  );
  const readers = list.data?.pages.flatMap((page) => page.readers) ?? [];
  return (
    <section className="stack tight" aria-labelledby="readers">
      <div className="row spread">
        <h3 id="readers">{t('readers.title')}</h3>
        <button
          type="button"
          className="button small"
          aria-disabled={list.isFetching}
          onClick={() => {
            if (isAsked && !list.isFetching) void list.refetch();
            setAsked(true);
          }}
        >
          {t(isAsked ? 'readers.again' : 'readers.show')}
        </button>
      </div>
      {list.isLoading ? <Loading /> : null}
      {list.error === null ? null : <ErrorNotice error={list.error} />}
      {list.data === undefined ? null : (
        <>
          <p className="muted">
            {t(list.hasNextPage ? 'readers.countSoFar' : 'readers.count', { count: readers.length })}
          </p>
          {readers.length === 0 ? null : (
            <ul className="uids">
              {readers.map(({ uid }) => (
                <li key={uid}>{uid}</li>
              ))}
            </ul>
          )}
          <MoreButton {...list} />
        </>
      )}
    </section>
  );
}
