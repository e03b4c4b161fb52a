import { useTexts } from '../i18n/use-texts.ts';
import { CopyButton } from '../ui/copy.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { webhookTexts } from './texts.ts';

export interface SecretDialogProps {
  readonly name: string;
  readonly secret: string;
  readonly onClose: () => void;
}

/** Shows a webhook's secret, once. */
export function SecretDialog({ name, secret, onClose }: SecretDialogProps) {
  const t = useTexts(webhookTexts);
  return (
    <Dialog title={t('secret.title', { name })} isOpen onClose={onClose} closeLabel={t('secret.done')} isWide>
      <Notice kind="warning">{t('secret.once')}</Notice>
      <Field label={t('secret.label')} hint={t('secret.hint')}>
        {(props) => (
          <input {...props} className="mono" readOnly value={secret} onFocus={({ target }) => target.select()} />
        )}
      </Field>
      <div>
        <CopyButton text={secret} label={t('secret.copy')} />
      </div>
    </Dialog>
  );
}
