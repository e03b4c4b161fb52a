import { useMutation } from '@connectrpc/connect-query';
import { useState } from 'react';
import { useLocation } from 'wouter';
import { BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { hasEnded, leftCount, stateName } from './batch-state.ts';
import { RecallDialog } from './recall-dialog.tsx';
import { RescheduleDialog, ResumeDialog } from './resume-dialogs.tsx';
import { batchTexts } from './texts.ts';

type ActionName = 'cancel' | 'pause' | 'retry' | 'reschedule' | 'resume' | 'recall';

export interface BatchActionsProps {
  readonly batch: Batch;
  /** Called after the batch was changed. */
  readonly onChange: () => void;
}

/** What can be done with a batch in its state; each asks before it does it. */
export function BatchActions({ batch, onChange }: BatchActionsProps) {
  const t = useTexts(batchTexts);
  const [open, setOpen] = useState<ActionName>();
  const close = () => setOpen(undefined);
  const isEnded = hasEnded(batch);
  const button = (name: ActionName, kind = '') => (
    <button type="button" className={`button ${kind}`} onClick={() => setOpen(name)}>
      {t(`actions.${name}`)}
    </button>
  );
  return (
    <>
      {isEnded ? null : button('pause')}
      {isEnded ? null : button('reschedule')}
      {isEnded ? null : button('cancel', 'danger')}
      {stateName(batch) === 'cancelled' && leftCount(batch) > 0 ? button('resume', 'primary') : null}
      {isEnded && batch.refusedCount > 0 ? button('retry') : null}
      {batch.recallState === undefined && batch.acceptedCount > 0 ? button('recall', 'danger') : null}
      <CancelDialog batch={batch} kind="cancel" isOpen={open === 'cancel'} onClose={close} onChange={onChange} />
      <CancelDialog batch={batch} kind="pause" isOpen={open === 'pause'} onClose={close} onChange={onChange} />
      <RetryDialog batch={batch} isOpen={open === 'retry'} onClose={close} />
      <RescheduleDialog batch={batch} isOpen={open === 'reschedule'} onClose={close} onChange={onChange} />
      <RecallDialog batch={batch} isOpen={open === 'recall'} onClose={close} onChange={onChange} />
      <ResumeDialog batch={batch} isOpen={open === 'resume'} onClose={close} />
    </>
  );
}

export interface BatchDialogProps {
  readonly batch: Batch;
  readonly isOpen: boolean;
  readonly onClose: () => void;
}

function CancelDialog({
  batch,
  kind,
  isOpen,
  onClose,
  onChange,
}: BatchDialogProps & { readonly kind: 'cancel' | 'pause'; readonly onChange: () => void }) {
  const t = useTexts(batchTexts);
  const cancel = useMutation(BatchService.method.cancelBatch, {
    onSuccess: () => {
      onChange();
      onClose();
    },
  });
  return (
    <ConfirmDialog
      title={t(`${kind}.title`)}
      isOpen={isOpen}
      onClose={onClose}
      closeLabel={t('keep')}
      confirm={t(`${kind}.confirm`)}
      isDanger={kind === 'cancel'}
      action={cancel}
      onConfirm={() => cancel.mutate({ batchId: batch.batchId })}
    >
      {kind === 'cancel' ? <p>{t('cancel.text', { count: leftCount(batch) })}</p> : <p>{t('pause.text')}</p>}
    </ConfirmDialog>
  );
}

/** Submits the refused messages again, and opens the new batch. */
function RetryDialog({ batch, isOpen, onClose }: BatchDialogProps) {
  const t = useTexts(batchTexts);
  const [, navigate] = useLocation();
  const retry = useMutation(BatchService.method.retryBatch, {
    onSuccess: ({ batch: next }) => {
      onClose();
      if (next !== undefined) navigate(pathOf('batches', next.batchId));
    },
  });
  return (
    <ConfirmDialog
      title={t('retryRefused.title')}
      isOpen={isOpen}
      onClose={onClose}
      confirm={t('retryRefused.confirm')}
      action={retry}
      onConfirm={() => retry.mutate({ batchId: batch.batchId })}
    >
      <p>{t('retryRefused.text', { count: batch.refusedCount })}</p>
    </ConfirmDialog>
  );
}
