import { useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useId, useState } from 'react';
import { MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { MessageDetailsProps } from './message-panel.tsx';
import { jsonOf, textOf } from './payload.ts';
import { channelTexts } from './texts.ts';

/** Recalls the message, after a question. The tail brings the change to the list. */
export function RecallButton({ channel, message }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const [isOpen, setOpen] = useState(false);
  const recall = useMutation(MessageService.method.recallMessages, {
    onSuccess: ({ results }) => setOpen(results.some(({ error }) => error !== undefined)),
  });
  // The call succeeds also when its only message was refused.
  const error = recall.error ?? recall.data?.results.find((each) => each.error !== undefined)?.error ?? null;
  return (
    <>
      <button type="button" className="button danger small" onClick={() => setOpen(true)}>
        {t('message.recall')}
      </button>
      <ConfirmDialog
        title={t('message.recallTitle')}
        isOpen={isOpen}
        onClose={() => setOpen(false)}
        confirm={t('message.recallConfirm')}
        isDanger
        action={{ isPending: recall.isPending, error, reset: recall.reset }}
        onConfirm={() => recall.mutate({ ...channel, messageSeqs: [message.messageSeq] })}
      >
        <p>{t('message.recallText')}</p>
      </ConfirmDialog>
    </>
  );
}

/** Replaces the text of the message. Bytes that are no text cannot be edited here. */
export function EditButton(props: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const [isOpen, setOpen] = useState(false);
  const text = textOf(props.message.payload);
  if (text === undefined) return null;
  return (
    <>
      <button type="button" className="button small" onClick={() => setOpen(true)}>
        {t('edit.open')}
      </button>
      {isOpen ? <EditDialog {...props} original={text} onClose={() => setOpen(false)} /> : null}
    </>
  );
}

interface EditDialogProps extends MessageDetailsProps {
  readonly original: string;
  readonly onClose: () => void;
}

/** Bytes of a payload; the contract's limit. */
const maxBytes = 65_536;

function EditDialog({ channel, message, original, onClose }: EditDialogProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const formId = useId();
  // What was seen when the dialog opened: an edit by somebody else meanwhile must not be lost.
  const [revision] = useState(message.revision ?? 0);
  // A text area has line feeds only; the line ends of the message are kept.
  const [initial] = useState(original.replaceAll('\r\n', '\n'));
  const [text, setText] = useState(initial);
  const [isChecked, setChecked] = useState(false);
  const edit = useMutation(MessageService.method.editMessage, { onSuccess: onClose });
  const payload = new TextEncoder().encode(initial === original ? text : text.replaceAll('\n', '\r\n'));
  const problem =
    text === ''
      ? t('send.textMissing')
      : text === initial
        ? t('edit.same')
        : payload.length > maxBytes
          ? t('edit.tooLong', { size: format.bytes(payload.length), limit: format.bytes(maxBytes) })
          : undefined;
  const isJsonBroken = jsonOf(message.payload) !== undefined && jsonOf(payload) === undefined;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (problem !== undefined || edit.isPending) return;
    edit.mutate({ ...channel, messageSeq: message.messageSeq, payload, expectedRevision: revision });
  };
  return (
    <Dialog
      title={t('edit.title', { seq: format.number(message.messageSeq) })}
      isOpen
      onClose={onClose}
      isWide
      actions={
        <button type="submit" form={formId} className="button primary" aria-disabled={edit.isPending}>
          {edit.isPending ? t('edit.saving') : t('edit.save')}
        </button>
      }
    >
      <p>{t('edit.text')}</p>
      <form id={formId} className="stack" onSubmit={submit}>
        <Field
          label={t('edit.label')}
          hint={t('edit.size', { size: format.bytes(payload.length) })}
          error={isChecked ? problem : undefined}
        >
          {(props) => <textarea {...props} rows={10} value={text} onChange={({ target }) => setText(target.value)} />}
        </Field>
      </form>
      {isJsonBroken ? <Notice kind="warning">{t('edit.notJson')}</Notice> : null}
      {edit.error === null ? null : <ErrorNotice error={edit.error} />}
    </Dialog>
  );
}
