import { type Webhook, WebhookDisabledReason } from '../../gen/client/sendbatch/v1/webhook_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Badge } from '../ui/display.tsx';
import { webhookTexts } from './texts.ts';

/** The webhook that WEBHOOK_URL creates; it cannot be changed here. */
export const settingsName = 'settings';

export function WebhookState({ webhook }: { readonly webhook: Webhook }) {
  const t = useTexts(webhookTexts);
  const { disabled, disabledReason, failures } = webhook;
  if (disabled && disabledReason === WebhookDisabledReason.GONE) return <Badge tone="danger">{t('states.gone')}</Badge>;
  if (disabled && disabledReason === WebhookDisabledReason.SETTING) return <Badge>{t('states.setting')}</Badge>;
  if (disabled) return <Badge>{t('states.disabled')}</Badge>;
  if (failures > 0) return <Badge tone="warning">{t('states.failing', { count: failures })}</Badge>;
  return <Badge tone="success">{t('states.delivering')}</Badge>;
}
