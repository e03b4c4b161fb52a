import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useId, useState } from 'react';
import { KeyService } from '../../gen/client/sendbatch/v1/key_service_pb.ts';
import type { Scope } from '../api/session.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { hasScope, useSession } from '../shell/use-session.ts';
import { CopyButton } from '../ui/copy.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { keyTexts } from './texts.ts';

const dayMs = 86_400_000;
const lifetimes = { never: 0, d30: 30, d90: 90, d365: 365 } as const;
type Lifetime = keyof typeof lifetimes;
const allScopes: readonly Scope[] = ['send', 'read', 'admin', 'metrics'];

export interface CreateKeyProps {
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onCreated: () => void;
}

/** Creates a key, and shows it once. Nothing else of the console keeps it. */
export function CreateKey({ isOpen, onClose, onCreated }: CreateKeyProps) {
  const t = useTexts(keyTexts);
  const formId = useId();
  const create = useMutation(KeyService.method.createKey, { onSuccess: onCreated });
  const close = () => {
    create.reset();
    onClose();
  };
  if (create.data !== undefined) {
    const { key, secret } = create.data;
    return (
      <Dialog
        title={t('created.title', { name: key?.name ?? '' })}
        isOpen={isOpen}
        onClose={close}
        closeLabel={t('created.done')}
        isWide
      >
        <Notice kind="warning">{t('created.once')}</Notice>
        <Field label={t('created.label')} hint={t('created.use', { header: 'Authorization: Bearer <key>' })}>
          {(props) => (
            <input {...props} className="mono" readOnly value={secret} onFocus={({ target }) => target.select()} />
          )}
        </Field>
        <div>
          <CopyButton text={secret} label={t('created.copy')} />
        </div>
      </Dialog>
    );
  }
  return (
    <Dialog
      title={t('create')}
      isOpen={isOpen}
      onClose={close}
      isWide
      actions={
        <button type="submit" form={formId} className="button primary" aria-disabled={create.isPending}>
          {create.isPending ? t('form.creating') : t('form.submit')}
        </button>
      }
    >
      <KeyForm id={formId} onSubmit={(wish) => (create.isPending ? undefined : create.mutate(wish))} />
      {create.error === null ? null : <ErrorNotice error={create.error} />}
    </Dialog>
  );
}

interface Wish {
  readonly name: string;
  readonly scopes: Scope[];
  readonly senders: string[];
  readonly ratePerSecond: number;
  readonly expiresAt?: ReturnType<typeof timestampFromMs>;
}

function KeyForm({ id, onSubmit }: { readonly id: string; readonly onSubmit: (wish: Wish) => void }) {
  const t = useTexts(keyTexts);
  const session = useSession();
  const [name, setName] = useState('');
  const [scopes, setScopes] = useState<readonly Scope[]>(['send']);
  const [senders, setSenders] = useState('');
  const [rate, setRate] = useState('');
  const [lifetime, setLifetime] = useState<Lifetime>('never');
  const [isChecked, setChecked] = useState(false);
  const rateNumber = rate.trim() === '' ? 0 : Number(rate);
  const isRateWrong =
    rate.trim() !== '' && !(Number.isInteger(rateNumber) && rateNumber >= 1 && rateNumber <= 1_000_000);
  const isValid = name.trim() !== '' && scopes.length > 0 && !isRateWrong;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (!isValid) return;
    const days = lifetimes[lifetime];
    onSubmit({
      name: name.trim(),
      scopes: [...scopes],
      senders: [
        ...new Set(
          senders
            .split(/[\n,]/)
            .map((each) => each.trim())
            .filter(Boolean),
        ),
      ],
      ratePerSecond: rateNumber,
      ...(days === 0 ? {} : { expiresAt: timestampFromMs(Date.now() + days * dayMs) }),
    });
  };
  return (
    <form id={id} className="stack" onSubmit={submit} noValidate>
      <Field
        label={t('form.name')}
        hint={t('form.nameHint')}
        error={isChecked && name.trim() === '' ? t('form.nameMissing') : undefined}
      >
        {(props) => (
          <input
            {...props}
            value={name}
            maxLength={100}
            autoComplete="off"
            onChange={({ target }) => setName(target.value)}
          />
        )}
      </Field>
      <fieldset aria-describedby={`${id}-scopes`}>
        <legend>{t('form.scopes')}</legend>
        {allScopes
          .filter((scope) => hasScope(session, scope))
          .map((scope) => (
            <label key={scope} className="check">
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={({ target }) =>
                  setScopes(allScopes.filter((each) => (each === scope ? target.checked : scopes.includes(each))))
                }
              />
              <span>
                {t(`scopes.${scope}`)} <span className="hint">{t(`scopeHints.${scope}`)}</span>
              </span>
            </label>
          ))}
        <p className="field-error" id={`${id}-scopes`}>
          {isChecked && scopes.length === 0 ? t('form.scopesMissing') : ''}
        </p>
      </fieldset>
      <Field label={t('form.senders')} hint={t('form.sendersHint')}>
        {(props) => (
          <textarea
            {...props}
            className="mono"
            rows={3}
            value={senders}
            spellCheck={false}
            onChange={({ target }) => setSenders(target.value)}
          />
        )}
      </Field>
      <div className="grid">
        <Field label={t('form.rate')} hint={t('form.rateHint')} error={isRateWrong ? t('form.rateWrong') : undefined}>
          {(props) => (
            <input {...props} inputMode="numeric" value={rate} onChange={({ target }) => setRate(target.value)} />
          )}
        </Field>
        <Field label={t('form.expires')}>
          {(props) => (
            <select {...props} value={lifetime} onChange={({ target }) => setLifetime(target.value as Lifetime)}>
              {(Object.keys(lifetimes) as Lifetime[]).map((each) => (
                <option key={each} value={each}>
                  {t(`form.expiresIn.${each}`)}
                </option>
              ))}
            </select>
          )}
        </Field>
      </div>
    </form>
  );
}
