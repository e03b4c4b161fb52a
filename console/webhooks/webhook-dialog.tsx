import { useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useId, useState } from 'react';
import type { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { type Webhook, WebhookFormat, WebhookService } from '../../gen/client/sendbatch/v1/webhook_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ChannelTypeChecks } from '../ui/channel-type-checks.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { webhookTexts } from './texts.ts';

export interface WebhookDialogProps {
  /** Undefined: a new webhook. */
  readonly webhook: Webhook | undefined;
  readonly onClose: () => void;
  /** `secret`: of a new webhook. */
  readonly onSaved: (saved: { readonly name: string; readonly secret: string | undefined }) => void;
}

const maxBatch = 100;
const maxWaitMs = 60_000;

/** Creates a webhook, or edits its settings. */
export function WebhookDialog({ webhook, onClose, onSaved }: WebhookDialogProps) {
  const t = useTexts(webhookTexts);
  const formId = useId();
  const [name, setName] = useState(webhook?.name ?? '');
  const [url, setUrl] = useState(webhook?.url ?? '');
  const [format, setFormat] = useState<WebhookFormat>(webhook?.format ?? WebhookFormat.STANDARD);
  const [types, setTypes] = useState<readonly ChannelType[]>(webhook?.channelTypes ?? []);
  const [batch, setBatch] = useState(String(webhook?.batchSize ?? maxBatch));
  const [wait, setWait] = useState(String(webhook?.maxWaitMs ?? 0));
  const [disabled, setDisabled] = useState(webhook?.disabled ?? false);
  const [isChecked, setChecked] = useState(false);
  const create = useMutation(WebhookService.method.createWebhook, {
    onSuccess: ({ secret }) => onSaved({ name, secret }),
  });
  const update = useMutation(WebhookService.method.updateWebhook, {
    onSuccess: () => onSaved({ name, secret: undefined }),
  });
  const isPending = create.isPending || update.isPending;
  const error = create.error ?? update.error;
  const faults = {
    name: /^[A-Za-z0-9._-]{1,128}$/.test(name) ? undefined : t('form.nameWrong'),
    url: /^https?:\/\/./.test(url.trim()) ? undefined : t('form.urlWrong'),
    batch: isWhole(batch, 1, maxBatch) ? undefined : t('form.numberWrong', { min: '1', max: String(maxBatch) }),
    wait: isWhole(wait, 0, maxWaitMs) ? undefined : t('form.numberWrong', { min: '0', max: String(maxWaitMs) }),
  };
  const shown = (fault: string | undefined) => (isChecked ? fault : undefined);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (isPending || Object.values(faults).some((fault) => fault !== undefined)) return;
    const wish = {
      name,
      url: url.trim(),
      format,
      channelTypes: [...types],
      batchSize: Number(batch),
      maxWaitMs: Number(wait),
      disabled,
    };
    if (webhook === undefined) create.mutate(wish);
    else update.mutate(wish);
  };
  return (
    <Dialog
      title={webhook === undefined ? t('create') : webhook.name}
      isOpen
      onClose={onClose}
      isWide
      actions={
        <button type="submit" form={formId} className="button primary" aria-disabled={isPending}>
          {isPending ? t('form.saving') : t('form.save')}
        </button>
      }
    >
      <form id={formId} className="stack" onSubmit={submit} noValidate>
        {webhook === undefined ? (
          <Field label={t('form.name')} hint={t('form.nameHint')} error={shown(faults.name)}>
            {(props) => (
              <input
                {...props}
                value={name}
                maxLength={128}
                autoComplete="off"
                spellCheck={false}
                onChange={({ target }) => setName(target.value)}
              />
            )}
          </Field>
        ) : null}
        <Field label={t('form.url')} hint={t('form.urlHint')} error={shown(faults.url)}>
          {(props) => (
            <input
              {...props}
              type="url"
              value={url}
              maxLength={2048}
              spellCheck={false}
              onChange={({ target }) => setUrl(target.value)}
            />
          )}
        </Field>
        <Field label={t('form.format')}>
          {(props) => (
            <select
              {...props}
              value={format}
              onChange={({ target }) => setFormat(Number(target.value) as WebhookFormat)}
            >
              <option value={WebhookFormat.STANDARD}>{t('formats.standard')}</option>
              <option value={WebhookFormat.LEGACY}>{t('formats.legacy')}</option>
            </select>
          )}
        </Field>
        <div className="grid">
          <Field label={t('form.batch')} error={shown(faults.batch)}>
            {(props) => (
              <input {...props} inputMode="numeric" value={batch} onChange={({ target }) => setBatch(target.value)} />
            )}
          </Field>
          <Field label={t('form.wait')} hint={t('form.waitHint')} error={shown(faults.wait)}>
            {(props) => (
              <input {...props} inputMode="numeric" value={wait} onChange={({ target }) => setWait(target.value)} />
            )}
          </Field>
        </div>
        <ChannelTypeChecks legend={t('form.types')} hint={t('form.typesHint')} value={types} onChange={setTypes} />
        <label className="check">
          <input type="checkbox" checked={disabled} onChange={({ target }) => setDisabled(target.checked)} />
          {t('form.disabled')}
        </label>
      </form>
      {error === null ? null : <ErrorNotice error={error} />}
    </Dialog>
  );
}

function isWhole(text: string, min: number, max: number): boolean {
  return /^\d+$/.test(text) && Number(text) >= min && Number(text) <= max;
}
