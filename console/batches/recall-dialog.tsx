import { useMutation } from '@connectrpc/connect-query';
import { useState } from 'react';
import { BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Confirm } from '../ui/confirm.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { BatchDialogProps } from './actions.tsx';
import { batchTexts } from './texts.ts';

/** Recalls what a batch has sent, once its number of messages was entered. */
export function RecallDialog({
  batch,
  isOpen,
  onClose,
  onChange,
}: BatchDialogProps & { readonly onChange: () => void }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const [entered, setEntered] = useState('');
  const [isWrong, setWrong] = useState(false);
  const recall = useMutation(BatchService.method.recallBatch, {
    onSuccess: () => {
      setEntered('');
      onChange();
      onClose();
    },
  });
  const confirm = () => {
    // As it is shown, with or without separators.
    const isRight = entered.replace(/\D/g, '') === String(batch.acceptedCount);
    setWrong(!isRight);
    if (isRight) recall.mutate({ batchId: batch.batchId });
  };
  return (
    <Dialog
      title={t('recall.title')}
      isOpen={isOpen}
      onClose={onClose}
      closeLabel={t('keep')}
      actions={
        <Confirm className="button danger" isBusy={recall.isPending} onClick={confirm}>
          {t('recall.confirm')}
        </Confirm>
      }
    >
      <p>{t('recall.text')}</p>
      <Field
        label={t('recall.type', { count: format.number(batch.acceptedCount) })}
        error={isWrong ? t('recall.wrong') : undefined}
      >
        {(props) => (
          <input
            {...props}
            inputMode="numeric"
            autoComplete="off"
            value={entered}
            onChange={({ target }) => {
              setEntered(target.value);
              setWrong(false);
            }}
          />
        )}
      </Field>
      {recall.error === null ? null : <ErrorNotice error={recall.error} />}
    </Dialog>
  );
}
