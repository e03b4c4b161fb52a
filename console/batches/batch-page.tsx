import { timestampMs } from '@bufbuild/protobuf/wkt';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { BatchPriority } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { reasonInWords } from '../i18n/reasons.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf, useSegments } from '../ui/address.ts';
import { CopyButton } from '../ui/copy.tsx';
import { Badge, Facts, Progress, Time } from '../ui/display.tsx';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { Figure, Figures } from '../ui/figures.tsx';
import { Page } from '../ui/page.tsx';
import { BatchActions } from './actions.tsx';
import { createPaceMeter, doneCount, hasEnded, leftCount, stateName } from './batch-state.ts';
import { PaceText, StateBadge } from './parts.tsx';
import { Reach } from './reach.tsx';
import { Results } from './results.tsx';
import { batchTexts } from './texts.ts';
import { useBatch } from './use-batch.ts';

/** One batch: its progress as it happens, what can be done with it, and its results. */
export default function BatchPage() {
  const t = useTexts(batchTexts);
  const [, batchId = ''] = useSegments();
  const { batch, error, isPending, refetch, at, isLive } = useBatch(batchId);
  const name = batch === undefined ? batchId.slice(0, 8) : batch.name === '' ? t('unnamed') : batch.name;
  return (
    <Page
      title={name}
      lead={<Link href="/batches">{t('back')}</Link>}
      actions={batch === undefined ? undefined : <BatchActions batch={batch} onChange={refetch} />}
    >
      {error !== null ? <ErrorNotice error={error} onRetry={refetch} /> : null}
      {isPending ? <Loading /> : null}
      {batch === undefined ? null : (
        <>
          <Summary batch={batch} at={at} isLive={isLive} />
          {batch.acceptedCount > 0 ? <Reach batch={batch} /> : null}
          <Results batch={batch} />
        </>
      )}
    </Page>
  );
}

interface SummaryProps {
  readonly batch: Batch;
  readonly at: number;
  readonly isLive: boolean;
}

function Summary({ batch, at, isLive }: SummaryProps) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const measure = useMemo(createPaceMeter, []);
  const pace = measure(batch, at);
  const done = doneCount(batch);
  const left = leftCount(batch);
  const isCancelled = stateName(batch) === 'cancelled';
  return (
    <section className="card stack" aria-label={t('columns.progress')}>
      <div className="row">
        <StateBadge batch={batch} now={at} />
        {isLive ? <Badge tone="info">{t('refresh')}</Badge> : null}
        <Continuation batch={batch} />
      </div>
      <div className="stack tight">
        <Progress
          label={t('progressOf', { name: batch.name || t('unnamed') })}
          share={batch.messageCount === 0 ? 0 : done / batch.messageCount}
        />
        <p className="muted">{t('doneOf', { done: format.number(done), total: format.number(batch.messageCount) })}</p>
      </div>
      <Figures>
        <Figure label={t('facts.accepted')} value={format.number(batch.acceptedCount)} />
        <Figure label={t('facts.refused')} value={format.number(batch.refusedCount)} isBad={batch.refusedCount > 0} />
        <Figure label={t('facts.duplicates')} value={format.number(batch.duplicateCount)} />
        <Figure label={t(isCancelled ? 'facts.unsent' : 'facts.left')} value={format.number(left)} />
        {pace === undefined ? null : (
          <>
            <Figure label={t('facts.rate')} value={<PaceText pace={pace} />} />
            <Figure label={t('facts.eta')} value={pace.leftMs === undefined ? '–' : format.duration(pace.leftMs)} />
          </>
        )}
      </Figures>
      <Recall batch={batch} />
      <LastError batch={batch} />
      <Details batch={batch} />
    </section>
  );
}

/** The batch that this one continues: its request id was derived from it. */
function Continuation({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const [, kind, origin = ''] = /^(retry|resume):([0-9a-f-]{36})$/.exec(batch.requestId) ?? [];
  if (kind === undefined) return null;
  return <Link href={pathOf('batches', origin)}>{t(kind === 'retry' ? 'continues.retry' : 'continues.resume')}</Link>;
}

/** Who recalled the batch, and how far that is. */
function Recall({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  if (batch.recallState === undefined) return null;
  const {
    recalledBy = '',
    recallRequestedAt,
    recalledCount = 0,
    recallRefusedCount = 0,
    recallMissingCount = 0,
  } = batch;
  return (
    <Notice kind="warning">
      <p className="notice-title">
        {t('recall.by', {
          name: recalledBy === '' ? '–' : recalledBy,
          time: recallRequestedAt === undefined ? '' : format.time(recallRequestedAt),
        })}
      </p>
      <Figures>
        <Figure label={t('recall.recalled')} value={format.number(recalledCount)} />
        {recallRefusedCount === 0 ? null : (
          <Figure label={t('recall.tooOld')} value={format.number(recallRefusedCount)} isBad />
        )}
        {recallMissingCount === 0 ? null : (
          <Figure label={t('recall.missing')} value={format.number(recallMissingCount)} />
        )}
      </Figures>
    </Notice>
  );
}

function LastError({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const { language } = usePreferences();
  const { lastError } = batch;
  if (lastError === undefined) return null;
  return (
    <Notice kind="warning">
      <p className="notice-title">{t(hasEnded(batch) ? 'cancelledByService' : 'lastError')}</p>
      <p>{reasonInWords(lastError.reason, language) ?? lastError.reason}</p>
      <p className="muted">{lastError.message}</p>
    </Notice>
  );
}

const priorityNames: Readonly<Record<number, 'low' | 'normal' | 'high'>> = {
  [BatchPriority.LOW]: 'low',
  [BatchPriority.HIGH]: 'high',
};

function Details({ batch }: { readonly batch: Batch }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const took =
    batch.startedAt !== undefined && batch.endedAt !== undefined
      ? format.duration(timestampMs(batch.endedAt) - timestampMs(batch.startedAt))
      : undefined;
  return (
    <Facts
      items={[
        [t('facts.submitted'), <Time key="submitted" value={batch.createdAt} />],
        ...(batch.submittedBy === '' ? [] : ([[t('facts.submittedBy'), batch.submittedBy]] as const)),
        ...(batch.sendAt === undefined
          ? []
          : ([[t('facts.sendAt'), <Time key="sendAt" value={batch.sendAt} />]] as const)),
        [t('facts.started'), <Time key="started" value={batch.startedAt} />],
        [t('facts.ended'), <Time key="ended" value={batch.endedAt} />],
        ...(batch.cancelledAt === undefined
          ? []
          : ([
              [t('facts.cancelledAt'), <Time key="cancelled" value={batch.cancelledAt} />],
              [t('facts.cancelledBy'), batch.cancelledBy || '–'],
            ] as const)),
        ...(took === undefined ? [] : ([[t('facts.took'), took]] as const)),
        [t('facts.priority'), t(`priorities.${priorityNames[batch.priority] ?? 'normal'}`)],
        [
          t('facts.batchId'),
          <span key="id">
            <code>{batch.batchId}</code> <CopyButton text={batch.batchId} />
          </span>,
        ],
        ...(batch.requestId === ''
          ? []
          : ([[t('facts.requestId'), <code key="request">{batch.requestId}</code>]] as const)),
      ]}
    />
  );
}
