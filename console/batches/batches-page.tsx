import { useInfiniteQuery } from '@connectrpc/connect-query';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf, useQueryParams } from '../ui/address.ts';
import { Progress, TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { createPaceMeter, doneCount, isSettled, type Pace, stateFilters } from './batch-state.ts';
import { PaceText, StateBadge } from './parts.tsx';
import { batchTexts } from './texts.ts';

const filterNames = ['all', 'unfinished', 'queued', 'running', 'completed', 'cancelled'] as const;
const pageSize = 50;
/** How often the list is read while a batch of it is unfinished, and otherwise. */
const busyRefreshMs = 2_000;
const idleRefreshMs = 15_000;

/** The list of batches, with their state and progress. */
export default function BatchesPage() {
  const t = useTexts(batchTexts);
  const [params, setParams] = useQueryParams();
  const filter = filterNames.find((name) => name === params.get('state')) ?? 'all';
  const list = useInfiniteQuery(
    BatchService.method.listBatches,
    { states: [...(stateFilters[filter] ?? [])], pageSize, pageToken: '' },
    {
      pageParamKey: 'pageToken',
      getNextPageParam: nextPageOf,
      refetchInterval: ({ state }) =>
        state.data?.pages.some(({ batches }) => batches.some((batch) => !isSettled(batch)))
          ? busyRefreshMs
          : idleRefreshMs,
    },
  );
  const { data, error, isPending, refetch, dataUpdatedAt } = list;
  const measure = useMemo(createPaceMeter, []);
  const batches = data?.pages.flatMap((page) => page.batches) ?? [];
  return (
    <Page
      title={t('title')}
      lead={t('lead')}
      actions={
        <Link href="/compose" className="button primary">
          {t('compose')}
        </Link>
      }
    >
      <div className="row end">
        <Field label={t('filter')}>
          {(props) => (
            <select {...props} value={filter} onChange={({ target }) => setParams({ state: target.value })}>
              {filterNames.map((name) => (
                <option key={name} value={name}>
                  {t(`states.${name}`)}
                </option>
              ))}
            </select>
          )}
        </Field>
      </div>
      {error !== null ? <ErrorNotice error={error} onRetry={() => void refetch()} /> : null}
      {isPending ? <Loading /> : null}
      {data !== undefined && batches.length === 0 ? (
        filter === 'all' ? (
          <Empty title={t('none')}>
            <p>{t('noneText')}</p>
          </Empty>
        ) : (
          <Empty title={t('noneInState')} />
        )
      ) : null}
      {batches.length === 0 ? null : (
        <TableScroll label={t('table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('columns.name')}</th>
                <th scope="col">{t('columns.state')}</th>
                <th scope="col" className="progress-column">
                  {t('columns.progress')}
                </th>
                <th scope="col" className="number">
                  {t('columns.refused')}
                </th>
                <th scope="col" className="number">
                  {t('columns.rate')}
                </th>
                <th scope="col" className="number">
                  {t('columns.left')}
                </th>
                <th scope="col">{t('columns.created')}</th>
              </tr>
            </thead>
            <tbody>
              {batches.map((batch) => (
                <Row key={batch.batchId} batch={batch} pace={measure(batch, dataUpdatedAt)} now={dataUpdatedAt} />
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      <MoreButton {...list} />
    </Page>
  );
}

interface RowProps {
  readonly batch: Batch;
  readonly pace: Pace | undefined;
  readonly now: number;
}

function Row({ batch, pace, now }: RowProps) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const done = doneCount(batch);
  const name = batch.name === '' ? t('unnamed') : batch.name;
  return (
    <tr>
      <th scope="row">
        <Link href={pathOf('batches', batch.batchId)}>{name}</Link>
        <div className="muted small mono">{batch.batchId.slice(0, 8)}</div>
      </th>
      <td>
        <StateBadge batch={batch} now={now} />
      </td>
      <td className="progress-column">
        <Progress label={t('progressOf', { name })} share={batch.messageCount === 0 ? 0 : done / batch.messageCount} />
        <div className="muted small">
          {t('doneOf', { done: format.number(done), total: format.number(batch.messageCount) })}
        </div>
      </td>
      <td className="number">
        {batch.refusedCount === 0 ? (
          <span className="muted">0</span>
        ) : (
          <Link href={`${pathOf('batches', batch.batchId)}?show=refused`}>{format.number(batch.refusedCount)}</Link>
        )}
      </td>
      <td className="number nowrap">
        {pace === undefined ? <span className="muted">–</span> : <PaceText pace={pace} />}
      </td>
      <td className="number nowrap">
        {pace?.leftMs === undefined ? <span className="muted">–</span> : format.duration(pace.leftMs)}
      </td>
      <td className="nowrap">
        <Time value={batch.createdAt} />
        {batch.submittedBy === '' ? null : (
          <div className="muted small cut">{t('by', { caller: batch.submittedBy })}</div>
        )}
      </td>
    </tr>
  );
}
