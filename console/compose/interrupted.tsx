import { useQuery } from '@connectrpc/connect-query';
import { useEffect, useState } from 'react';
import { Link } from 'wouter';
import { BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { composeTexts } from './texts.ts';
import type { UploadNote } from './upload-note.ts';
import { work } from './work.ts';

/** Batches that are searched, from the newest. */
const searchedBatches = 1000;
/** A batch whose upload was complete is stored within this time. */
const settleMs = 5_000;
const pollMs = 1_000;

/** Finds out what became of an upload that was stopped, failed, or ended with its page. */
export function Interrupted({ note: { requestId, messageCount, name, isOfPage } }: { readonly note: UploadNote }) {
  const t = useTexts(composeTexts);
  const [isSettled, setSettled] = useState(false);
  const { data, error, refetch } = useQuery(
    BatchService.method.listBatches,
    { pageSize: searchedBatches },
    { refetchInterval: isSettled ? false : pollMs, staleTime: 0 },
  );
  const batch = data?.batches.find((each) => each.requestId === requestId);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(true), settleMs);
    return () => clearTimeout(timer);
  }, []);
  const dismiss = (
    <button type="button" className="button small" onClick={() => work.dismissNote()}>
      {t('interrupted.dismiss')}
    </button>
  );
  if (error !== null)
    return <ErrorNotice title={t('interrupted.unknown', { name })} error={error} onRetry={() => void refetch()} />;
  if (batch !== undefined)
    return (
      <Notice kind="warning">
        <p>{t('interrupted.arrived', { name, count: messageCount })}</p>
        <div className="row">
          <Link href={pathOf('batches', batch.batchId)} className="button small primary">
            {t('send.toBatch')}
          </Link>
          {dismiss}
        </div>
      </Notice>
    );
  if (!isSettled || data === undefined) return <Loading label={t('interrupted.checking', { name })} />;
  return (
    <Notice kind="warning">
      <p>{t(isOfPage ? 'interrupted.notArrived' : 'interrupted.notArrivedBefore', { name })}</p>
      {dismiss}
    </Notice>
  );
}
