import { useMutation, useQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { Link, useLocation } from 'wouter';
import { type Webhook, WebhookFormat, WebhookService } from '../../gen/client/sendbatch/v1/webhook_service_pb.ts';
import { channelTypeName } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useSegments } from '../ui/address.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { Facts, Time } from '../ui/display.tsx';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { Page } from '../ui/page.tsx';
import { Deliveries } from './deliveries.tsx';
import { SecretDialog } from './secret-dialog.tsx';
import { settingsName, WebhookState } from './state.tsx';
import { webhookTexts } from './texts.ts';
import { WebhookDialog } from './webhook-dialog.tsx';

const refreshMs = 5_000;

/** A webhook: its state, its failed deliveries, and what can be done with it. */
export default function WebhookPage() {
  const t = useTexts(webhookTexts);
  const [, name = ''] = useSegments();
  const [, navigate] = useLocation();
  const [open, setOpen] = useState<'edit' | 'rotate' | 'remove'>();
  const close = () => setOpen(undefined);
  const { data, error, isPending, refetch } = useQuery(
    WebhookService.method.getWebhook,
    { name },
    { refetchInterval: refreshMs },
  );
  const test = useMutation(WebhookService.method.testWebhook, { onSettled: () => void refetch() });
  const rotate = useMutation(WebhookService.method.rotateWebhookSecret, {
    onSuccess: () => {
      close();
      void refetch();
    },
  });
  const remove = useMutation(WebhookService.method.deleteWebhook, { onSuccess: () => navigate('/webhooks') });
  const webhook = data?.webhook;
  const isOwn = name !== settingsName;
  const button = (action: 'edit' | 'rotate' | 'remove', kind = '') => (
    <button type="button" className={`button ${kind}`} onClick={() => setOpen(action)}>
      {t(`actions.${action}`)}
    </button>
  );
  return (
    <Page
      title={name}
      lead={<Link href="/webhooks">{t('all')}</Link>}
      actions={
        webhook === undefined ? undefined : (
          <>
            <button
              type="button"
              className="button primary"
              aria-disabled={test.isPending}
              onClick={() => (test.isPending ? undefined : test.mutate({ name }))}
            >
              {t('actions.test')}
            </button>
            {isOwn ? button('edit') : null}
            {isOwn ? button('rotate') : null}
            {button('remove', 'danger')}
          </>
        )
      }
    >
      {error === null ? null : <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {isPending ? <Loading /> : null}
      <div className="stack" aria-live="polite">
        {test.isPending ? <Loading label={t('test.running')} /> : null}
        {test.error === null ? null : <ErrorNotice error={test.error} />}
        {test.data === undefined || test.isPending ? null : <TestOutcome {...test.data} />}
      </div>
      {webhook === undefined ? null : (
        <>
          {isOwn ? null : <Notice>{t('fromSettings')}</Notice>}
          <WebhookFacts webhook={webhook} />
          <Deliveries name={name} onRedelivered={() => void refetch()} />
        </>
      )}
      {open === 'edit' && webhook !== undefined ? (
        <WebhookDialog
          webhook={webhook}
          onClose={close}
          onSaved={() => {
            close();
            void refetch();
          }}
        />
      ) : null}
      {rotate.data === undefined ? null : (
        <SecretDialog name={name} secret={rotate.data.secret} onClose={() => rotate.reset()} />
      )}
      <ConfirmDialog
        title={t('rotate.title', { name })}
        isOpen={open === 'rotate'}
        onClose={close}
        confirm={t('rotate.confirm')}
        action={rotate}
        onConfirm={() => rotate.mutate({ name })}
      >
        <p>{t('rotate.text')}</p>
      </ConfirmDialog>
      <ConfirmDialog
        title={t('remove.title', { name })}
        isOpen={open === 'remove'}
        onClose={close}
        confirm={t('remove.confirm')}
        isDanger
        action={remove}
        onConfirm={() => remove.mutate({ name })}
      >
        <p>{t('remove.text')}</p>
      </ConfirmDialog>
    </Page>
  );
}

interface Outcome {
  readonly delivered: boolean;
  readonly status: number;
  readonly error: string;
  readonly durationMs: number;
}

function TestOutcome({ delivered, status, error, durationMs }: Outcome) {
  const t = useTexts(webhookTexts);
  const format = useFormat();
  const values = { status: String(status), duration: format.duration(durationMs) };
  if (delivered) return <Notice kind="success">{t('test.delivered', values)}</Notice>;
  return (
    <Notice kind="warning">
      <p className="notice-title">{t('test.failed', { error })}</p>
      {status === 0 ? null : <p>{t('test.failedStatus', values)}</p>}
    </Notice>
  );
}

function WebhookFacts({ webhook }: { readonly webhook: Webhook }) {
  const t = useTexts(webhookTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const types = webhook.channelTypes.map((type) => channelTypeName(type, language)).join(', ');
  return (
    <section className="card stack" aria-label={webhook.name}>
      <div>
        <WebhookState webhook={webhook} />
      </div>
      <Facts
        items={[
          [t('facts.url'), <code key="url">{webhook.url}</code>],
          [t('facts.format'), webhook.format === WebhookFormat.LEGACY ? t('formats.legacy') : t('formats.standard')],
          [t('facts.types'), types === '' ? t('facts.allTypes') : types],
          [t('facts.batch'), format.number(webhook.batchSize)],
          [t('facts.wait'), format.duration(webhook.maxWaitMs)],
          [t('facts.queued'), format.number(webhook.queuedMessages)],
          [t('facts.oldest'), <Time key="oldest" value={webhook.oldestQueuedAt} />],
          [t('facts.parked'), format.number(webhook.parkedDeliveries)],
          [t('facts.created'), <Time key="created" value={webhook.createdAt} />],
          [t('facts.updated'), <Time key="updated" value={webhook.updatedAt} />],
          ...(webhook.previousSecretUntil === undefined
            ? []
            : [[t('facts.previousSecret'), <Time key="secret" value={webhook.previousSecretUntil} />] as const]),
        ]}
      />
    </section>
  );
}
