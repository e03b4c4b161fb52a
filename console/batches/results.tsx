import { createClient } from '@connectrpc/connect';
import { useInfiniteQuery } from '@connectrpc/connect-query';
import { useEffect, useRef, useState } from 'react';
import { type BatchResult, BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { transport } from '../api/client.ts';
import { ChannelLink } from '../channels/channel-link.tsx';
import { channelTypeName } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { reasonInWords } from '../i18n/reasons.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useQueryParams } from '../ui/address.ts';
import { Badge, TableScroll } from '../ui/display.tsx';
import { downloadCsv } from '../ui/download.ts';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { nextPageOf } from '../ui/more-button.tsx';
import { uiTexts } from '../ui/texts.ts';
import { hasEnded } from './batch-state.ts';
import { csvLine } from './csv.ts';
import { batchTexts } from './texts.ts';

const pageSize = 100;
/**
 * How often the results of an unfinished batch are read; once more pages are open, only by hand.
 */
const refreshMs = 3_000;

/** The results of a batch: receiver, line and outcome of each message. */
export function Results({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const ui = useTexts(uiTexts);
  const [params, setParams] = useQueryParams();
  const refusedOnly = params.get('show') === 'refused';
  const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery(
    BatchService.method.listBatchResults,
    { batchId: batch.batchId, refusedOnly, pageSize, pageToken: '' },
    {
      pageParamKey: 'pageToken',
      getNextPageParam: nextPageOf,
      refetchInterval: ({ state }) => (hasEnded(batch) || (state.data?.pages.length ?? 0) > 1 ? false : refreshMs),
    },
  );
  // What came between the last reading and the end.
  const isEnded = hasEnded(batch);
  useEffect(() => {
    if (isEnded) void refetch();
  }, [isEnded, refetch]);
  const results = data?.pages.flatMap((page) => page.results) ?? [];
  return (
    <section className="stack" aria-labelledby="results">
      <div className="row end spread">
        <h2 id="results">{t('results.title')}</h2>
        <div className="row end">
          <Field label={t('results.filter')}>
            {(props) => (
              <select
                {...props}
                value={refusedOnly ? 'refused' : 'all'}
                onChange={({ target }) => setParams({ show: target.value === 'refused' ? 'refused' : '' })}
              >
                <option value="all">{t('results.all')}</option>
                <option value="refused">{t('results.refused')}</option>
              </select>
            )}
          </Field>
          <ExportButton batch={batch} refusedOnly={refusedOnly} />
        </div>
      </div>
      {error !== null ? <ErrorNotice error={error} onRetry={() => void refetch()} /> : null}
      {isPending ? <Loading /> : null}
      {data !== undefined && results.length === 0 ? (
        <Empty title={t(refusedOnly ? 'results.noneRefused' : 'results.none')} />
      ) : null}
      {results.length === 0 ? null : (
        <TableScroll label={t('results.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col" className="number">
                  {t('results.index')}
                </th>
                <th scope="col" className="number">
                  {t('results.line')}
                </th>
                <th scope="col">{t('results.receiver')}</th>
                <th scope="col">{t('results.outcome')}</th>
                <th scope="col">{t('results.message')}</th>
              </tr>
            </thead>
            <tbody>
              {results.map((result) => (
                <ResultRow key={result.index} result={result} />
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      {hasNextPage ? (
        <div className="row">
          <button type="button" className="button" disabled={isFetchingNextPage} onClick={() => void fetchNextPage()}>
            {isFetchingNextPage ? ui('loading') : t('results.more')}
          </button>
        </div>
      ) : null}
    </section>
  );
}

function ResultRow({ result }: { readonly result: BatchResult }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const { error, channelType, channelId, messageSeq } = result;
  return (
    <tr>
      <td className="number">{format.number(result.index + 1)}</td>
      <td className="number">{result.line === 0 ? <span className="muted">–</span> : format.number(result.line)}</td>
      <td className="breakable">
        {channelId === '' ? (
          <span className="muted">–</span>
        ) : (
          <>
            {channelId}
            <div className="muted small">{channelTypeName(channelType, language)}</div>
          </>
        )}
      </td>
      <td>
        {error !== undefined ? (
          <>
            <Badge tone="danger">{t('facts.refused')}</Badge>
            <div>{reasonInWords(error.reason, language) ?? error.reason}</div>
          </>
        ) : (
          <Badge tone={result.duplicate ? 'neutral' : 'success'}>
            {t(result.duplicate ? 'results.duplicate' : 'results.sent')}
          </Badge>
        )}
      </td>
      <td className="breakable">
        {error !== undefined ? (
          <span className="muted small">{error.message}</span>
        ) : messageSeq > 0n && channelId !== '' ? (
          <ChannelLink channelType={channelType} channelId={channelId} seq={messageSeq}>
            {t('results.sequence', { seq: format.number(messageSeq) })}
          </ChannelLink>
        ) : messageSeq > 0n ? (
          t('results.sequence', { seq: format.number(messageSeq) })
        ) : (
          <span className="muted">–</span>
        )}
      </td>
    </tr>
  );
}

const exportPageSize = 1_000;

/** Reads all results, page by page, and offers them as a file. */
function ExportButton({ batch, refusedOnly }: { readonly batch: Batch; readonly refusedOnly: boolean }) {
  const t = useTexts(batchTexts);
  const { language } = usePreferences();
  const [count, setCount] = useState<number>();
  const [isDone, setDone] = useState(false);
  const [error, setError] = useState<unknown>();
  const stop = useRef<AbortController>(undefined);
  useEffect(() => () => stop.current?.abort(), []);

  async function run(): Promise<void> {
    const control = new AbortController();
    stop.current = control;
    const { signal } = control;
    const lines = [csvLine(columns)];
    setCount(0);
    setDone(false);
    setError(undefined);
    try {
      const rpc = createClient(BatchService, transport);
      for (let pageToken = ''; ; ) {
        const request = { batchId: batch.batchId, refusedOnly, pageSize: exportPageSize, pageToken };
        const { results, nextPageToken } = await rpc.listBatchResults(request, { signal });
        for (const result of results) lines.push(lineOf(result, language));
        setCount(lines.length - 1);
        if (nextPageToken === '') break;
        pageToken = nextPageToken;
      }
      downloadCsv(`results-${batch.batchId.slice(0, 8)}${refusedOnly ? '-refused' : ''}.csv`, lines);
      setDone(true);
    } catch (thrown) {
      if (!signal.aborted) setError(thrown);
      setCount(undefined);
    }
  }

  const isBusy = count !== undefined && !isDone;
  return (
    <>
      <span role="status" className="muted">
        {count === undefined
          ? ''
          : isDone
            ? t('results.exported', { count })
            : t('results.exporting', { count: String(count) })}
      </span>
      <button type="button" className="button" disabled={isBusy} onClick={() => void run()}>
        {t('results.export')}
      </button>
      {error === undefined ? null : <ErrorNotice error={error} />}
    </>
  );
}

const columns = [
  'index',
  'line',
  'from_uid',
  'channel_type',
  'channel_id',
  'outcome',
  'reason',
  'text',
  'message_seq',
  'message_id',
  'client_msg_no',
];

function lineOf(result: BatchResult, language: 'en' | 'zh'): string {
  const { error } = result;
  return csvLine([
    result.index,
    result.line === 0 ? '' : result.line,
    result.fromUid,
    result.channelType === 0 ? '' : result.channelType,
    result.channelId,
    error !== undefined ? 'refused' : result.duplicate ? 'duplicate' : 'sent',
    error?.reason ?? '',
    error === undefined ? '' : (reasonInWords(error.reason, language) ?? error.message),
    result.messageSeq === 0n ? '' : result.messageSeq,
    result.messageId === 0n ? '' : result.messageId,
    result.clientMsgNo,
  ]);
}
