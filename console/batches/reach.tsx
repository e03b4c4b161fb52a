import { useQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { BatchService, type ReachCounts } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { channelTypeName } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { type Format, useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { TableScroll } from '../ui/display.tsx';
import { ErrorNotice, Loading } from '../ui/feedback.tsx';
import { batchTexts } from './texts.ts';

/**
 * How many receivers have got and read the messages of a batch. It is counted when the user asks,
 * because a count reads the cursors of all receivers and a caller has one at a time.
 */
export function Reach({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const [isAsked, setAsked] = useState(false);
  const { data, error, isFetching, refetch } = useQuery(
    BatchService.method.getBatchReach,
    { batchId: batch.batchId },
    { enabled: isAsked, staleTime: Number.POSITIVE_INFINITY, refetchOnWindowFocus: false },
  );
  const reach = data?.reach;
  return (
    <section className="card stack" aria-labelledby="reach">
      <div className="row spread">
        <h2 id="reach">{t('reach.title')}</h2>
        <button
          type="button"
          className="button"
          aria-disabled={isFetching}
          onClick={() => {
            if (isAsked) void refetch();
            setAsked(true);
          }}
        >
          {t(reach === undefined ? 'reach.count' : 'reach.again')}
        </button>
      </div>
      {reach === undefined && !isFetching && error === null ? <p className="muted">{t('reach.text')}</p> : null}
      {isFetching ? <Loading label={t('reach.counting')} /> : null}
      {error === null ? null : <ErrorNotice error={error} />}
      {reach?.total === undefined ? null : (
        <>
          <TableScroll label={t('reach.table')}>
            <table>
              <thead>
                <tr>
                  <th scope="col">{t('reach.kind')}</th>
                  <th scope="col" className="number">
                    {t('reach.messages')}
                  </th>
                  <th scope="col" className="number">
                    {t('reach.receivers')}
                  </th>
                  {reach.total.deliveredCount === undefined ? null : (
                    <th scope="col" className="number">
                      {t('reach.delivered')}
                    </th>
                  )}
                  <th scope="col" className="number">
                    {t('reach.read')}
                  </th>
                  <th scope="col" className="number">
                    {t('reach.recalled')}
                  </th>
                </tr>
              </thead>
              <tbody>
                {reach.channelTypes.length < 2
                  ? null
                  : reach.channelTypes.map(({ channelType, counts }) =>
                      counts === undefined ? null : (
                        <Counts
                          key={channelType}
                          name={channelType === 0 ? t('reach.gone') : channelTypeName(channelType, language)}
                          counts={counts}
                          format={format}
                        />
                      ),
                    )}
                <Counts name={t('reach.total')} counts={reach.total} format={format} />
              </tbody>
            </table>
          </TableScroll>
          <p className="hint">
            {reach.countedAt === undefined ? '' : t('reach.at', { time: format.time(reach.countedAt) })}{' '}
            {reach.uncountedCount === 0 ? '' : t('reach.uncounted', { count: reach.uncountedCount })}
          </p>
        </>
      )}
    </section>
  );
}

interface CountsProps {
  readonly name: string;
  readonly counts: ReachCounts;
  readonly format: Format;
}

function Counts({ name, counts, format }: CountsProps) {
  const { messageCount, receiverCount, deliveredCount, readCount, recalledCount } = counts;
  const ofReceivers = (count: bigint) =>
    receiverCount === 0n
      ? format.number(count)
      : `${format.number(count)} (${format.percent(Number(count) / Number(receiverCount))})`;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td className="number">{format.number(messageCount)}</td>
      <td className="number">{format.number(receiverCount)}</td>
      {deliveredCount === undefined ? null : <td className="number nowrap">{ofReceivers(deliveredCount)}</td>}
      <td className="number nowrap">{ofReceivers(readCount)}</td>
      <td className="number">{format.number(recalledCount)}</td>
    </tr>
  );
}
