import { type Timestamp, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { useState } from 'react';
import { useLocation } from 'wouter';
import { BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import { sendbatch, transport } from '../api/client.ts';
import { localTimeOf, momentsOf } from '../i18n/local-time.ts';
import { useTimeZone } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { Confirm } from '../ui/confirm.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { BatchDialogProps } from './actions.tsx';
import { batchTexts } from './texts.ts';

const rpc = createClient(BatchService, transport);

/** Submits what a cancelled batch has not sent, now or at a time, and opens the new batch. */
export function ResumeDialog({ batch, isOpen, onClose }: BatchDialogProps) {
  const t = useTexts(batchTexts);
  return (
    <WhenDialog
      title={t('resume.title')}
      text={t('resume.text')}
      confirm={t('resume.confirm')}
      choices={['planned', 'now', 'later']}
      isOpen={isOpen}
      onClose={onClose}
      submit={async (sendAt) => (await rpc.resumeBatch({ batchId: batch.batchId, ...atTime(sendAt) })).batch?.batchId}
    />
  );
}

/** Cancels a batch and submits its rest for another time. */
export function RescheduleDialog({
  batch: { batchId },
  isOpen,
  onClose,
  onChange,
}: BatchDialogProps & { readonly onChange: () => void }) {
  const t = useTexts(batchTexts);
  const [isHalfDone, setHalfDone] = useState(false);
  return (
    <WhenDialog
      title={t('reschedule.title')}
      text={t('reschedule.text')}
      confirm={t('reschedule.confirm')}
      choices={['later']}
      {...(isHalfDone ? { warning: t('reschedule.halfDone') } : {})}
      isOpen={isOpen}
      onClose={onClose}
      submit={async (sendAt) => {
        setHalfDone(false);
        await rpc.cancelBatch({ batchId });
        // A group that is being sent is finished first; only then is it known what is left.
        for await (const { endedAt } of sendbatch.watch(batchId)) if (endedAt !== undefined) break;
        try {
          return (await rpc.resumeBatch({ batchId, ...atTime(sendAt) })).batch?.batchId;
        } catch (error) {
          setHalfDone(true);
          onChange();
          throw error;
        }
      }}
    />
  );
}

function atTime(sendAt: Timestamp | undefined): { readonly sendAt?: Timestamp } {
  return sendAt === undefined ? {} : { sendAt };
}

/** `planned`: each message at its own time, and at once where that has passed. */
type When = 'planned' | 'now' | 'later';

interface WhenDialogProps {
  readonly title: string;
  readonly text: string;
  readonly confirm: string;
  readonly warning?: string;
  /** What can be chosen, the first one at the start. */
  readonly choices: readonly When[];
  readonly isOpen: boolean;
  readonly onClose: () => void;
  /** Does it; returns the id of the new batch. */
  readonly submit: (sendAt: Timestamp | undefined) => Promise<string | undefined>;
}

/**
 * Asks when to send, in the time zone of the preferences; the chosen moment is also shown in UTC.
 */
function WhenDialog({ title, text, confirm, warning, choices, isOpen, onClose, submit }: WhenDialogProps) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  const timeZone = useTimeZone();
  const [, navigate] = useLocation();
  const [when, setWhen] = useState<When>(choices[0] ?? 'later');
  const [local, setLocal] = useState('');
  const [problem, setProblem] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const moments = momentsOf(local, timeZone);
  const [moment] = moments;
  const isLater = when === 'later';

  async function run(): Promise<void> {
    if (isBusy) return;
    const found = isLater ? problemOf() : undefined;
    setProblem(found);
    if (found !== undefined) return;
    setBusy(true);
    setError(undefined);
    try {
      const ms = isLater ? moment : when === 'now' ? Date.now() : undefined;
      const next = await submit(ms === undefined ? undefined : timestampFromMs(ms));
      onClose();
      if (next !== undefined) navigate(pathOf('batches', next));
    } catch (thrown) {
      setError(thrown);
    } finally {
      setBusy(false);
    }
  }

  function problemOf(): string | undefined {
    if (local === '') return t('timeMissing');
    if (moment === undefined) return t('timeGap', { zone: timeZone });
    if (moments.length > 1) return t('timeTwice', { zone: timeZone });
    return moment <= Date.now() ? t('timePast') : undefined;
  }

  return (
    <Dialog
      title={title}
      isOpen={isOpen}
      onClose={onClose}
      closeLabel={t('keep')}
      actions={
        <Confirm className="button primary" isBusy={isBusy} onClick={() => void run()}>
          {confirm}
        </Confirm>
      }
    >
      <p>{text}</p>
      {choices.length > 1 ? (
        <fieldset>
          <legend>{t('when')}</legend>
          {choices.map((each) => (
            <label className="check" key={each}>
              <input type="radio" name="when" checked={each === when} onChange={() => setWhen(each)} />
              {t(`times.${each}`)}
            </label>
          ))}
        </fieldset>
      ) : null}
      {isLater ? (
        <Field
          label={t('time', { zone: timeZone })}
          error={problem}
          {...(moments.length === 1 && moment !== undefined ? { hint: format.inUtc(moment) } : {})}
        >
          {(props) => (
            <input
              {...props}
              type="datetime-local"
              min={localTimeOf(Date.now(), timeZone)}
              value={local}
              onChange={({ target }) => {
                setLocal(target.value);
                setProblem(undefined);
              }}
            />
          )}
        </Field>
      ) : null}
      {warning === undefined ? null : <Notice kind="warning">{warning}</Notice>}
      {error === undefined ? null : <ErrorNotice error={error} />}
    </Dialog>
  );
}
