import { useQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { Link } from 'wouter';
import { WebhookService } from '../../gen/client/sendbatch/v1/webhook_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Page } from '../ui/page.tsx';
import { SecretDialog } from './secret-dialog.tsx';
import { WebhookState } from './state.tsx';
import { webhookTexts } from './texts.ts';
import { WebhookDialog } from './webhook-dialog.tsx';

const refreshMs = 5_000;

/** All webhooks and their state; a service has at most 100. */
export default function WebhooksPage() {
  const t = useTexts(webhookTexts);
  const format = useFormat();
  const [isCreating, setCreating] = useState(false);
  const [created, setCreated] = useState<{ readonly name: string; readonly secret: string }>();
  const { data, error, isPending, refetch } = useQuery(
    WebhookService.method.listWebhooks,
    {},
    { refetchInterval: refreshMs },
  );
  const webhooks = data?.webhooks ?? [];
  return (
    <Page
      title={t('title')}
      lead={t('lead')}
      actions={
        <button type="button" className="button primary" onClick={() => setCreating(true)}>
          {t('create')}
        </button>
      }
    >
      {error === null ? null : <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {isPending ? <Loading /> : null}
      {data !== undefined && webhooks.length === 0 ? (
        <Empty title={t('none')}>
          <p>{t('noneText')}</p>
        </Empty>
      ) : null}
      {webhooks.length === 0 ? null : (
        <TableScroll label={t('table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('columns.name')}</th>
                <th scope="col">{t('columns.state')}</th>
                <th scope="col" className="number">
                  {t('columns.queued')}
                </th>
                <th scope="col">{t('columns.oldest')}</th>
                <th scope="col" className="number">
                  {t('columns.parked')}
                </th>
              </tr>
            </thead>
            <tbody>
              {webhooks.map((webhook) => (
                <tr key={webhook.name}>
                  <th scope="row" className="breakable">
                    <Link href={pathOf('webhooks', webhook.name)}>{webhook.name}</Link>
                    <div className="muted small breakable">{webhook.url}</div>
                  </th>
                  <td>
                    <WebhookState webhook={webhook} />
                  </td>
                  <td className="number">{format.number(webhook.queuedMessages)}</td>
                  <td className="nowrap">
                    <Time value={webhook.oldestQueuedAt} />
                  </td>
                  <td className="number">{format.number(webhook.parkedDeliveries)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      {isCreating ? (
        <WebhookDialog
          webhook={undefined}
          onClose={() => setCreating(false)}
          onSaved={({ name, secret }) => {
            setCreating(false);
            if (secret !== undefined) setCreated({ name, secret });
            void refetch();
          }}
        />
      ) : null}
      {created === undefined ? null : <SecretDialog {...created} onClose={() => setCreated(undefined)} />}
    </Page>
  );
}
