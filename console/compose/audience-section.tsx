import { useTexts } from '../i18n/use-texts.ts';
import { Field, type FieldProps } from '../ui/field.tsx';
import type { Form } from './form.ts';
import { composeTexts } from './texts.ts';
import { work } from './work.ts';

const channelTypes = ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'] as const;

interface Choices {
  readonly form: Form;
  readonly columns: readonly string[];
}

/** Receiver, sender, and what else a message has. */
export function AudienceSection(choices: Choices) {
  const t = useTexts(composeTexts);
  const { form, columns } = choices;
  const isOfLines = form.source === 'lines';
  return (
    <section className="card stack" aria-labelledby="compose-audience">
      <h2 id="compose-audience">{t('audience.title')}</h2>
      {isOfLines ? <p>{t('audience.ofLines')}</p> : null}
      <div className="choices">
        <KindField form={form} isOfLines={isOfLines} />
        {isOfLines ? null : (
          <ColumnField
            label={t('audience.receiver')}
            hint={t('audience.receiverHint')}
            columns={columns}
            value={form.receiverColumn}
            none={t('audience.choose')}
            onChange={(receiverColumn) => work.change({ receiverColumn })}
          />
        )}
        <Field label={t('audience.sender')} hint={isOfLines ? t('audience.whereMissing') : t('audience.senderHint')}>
          {(props) =>
            form.senderColumn === '' || isOfLines ? (
              <input
                {...props}
                value={form.sender}
                spellCheck={false}
                autoComplete="off"
                onChange={({ target }) => work.change({ sender: target.value })}
              />
            ) : (
              <ColumnSelect
                {...props}
                columns={columns}
                value={form.senderColumn}
                none={t('audience.senderFixed')}
                onChange={(senderColumn) => work.change({ senderColumn })}
              />
            )
          }
        </Field>
      </div>
      {isOfLines || Object.keys(form.furtherColumns).length === 0 ? null : (
        <div className="row">
          <p>{t('audience.further', { names: Object.keys(form.furtherColumns).join(', ') })}</p>
          <button type="button" className="button small" onClick={() => work.change({ furtherColumns: {} })}>
            {t('audience.withoutFurther')}
          </button>
        </div>
      )}
      {isOfLines ? null : (
        <details className="more">
          <summary>{t('audience.more')}</summary>
          <MoreChoices {...choices} />
        </details>
      )}
    </section>
  );
}

function KindField({ form, isOfLines }: { readonly form: Form; readonly isOfLines: boolean }) {
  const t = useTexts(composeTexts);
  const isFixed = form.typeColumn === '' || isOfLines;
  return (
    <Field label={t('audience.kind')} hint={isOfLines ? t('audience.whereMissing') : undefined}>
      {(props) => (
        <select
          {...props}
          value={isFixed ? String(form.channelType) : 'column'}
          onChange={({ target }) => work.change({ channelType: Number(target.value), typeColumn: '' })}
        >
          {isFixed ? null : <option value="column">{t('audience.kindFromColumn', { column: form.typeColumn })}</option>}
          {channelTypes.map((type) => (
            <option key={type} value={type}>
              {t(`audience.kinds.${type}`)}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

function MoreChoices({ form, columns }: Choices) {
  const t = useTexts(composeTexts);
  return (
    <div className="choices">
      <label className="check">
        <input
          type="checkbox"
          checked={form.isUnread}
          onChange={({ target }) => work.change({ isUnread: target.checked })}
        />
        {t('audience.unread')}
      </label>
      <Field label={t('audience.tag')} hint={t('audience.tagHint')}>
        {(props) => <input {...props} value={form.tag} onChange={({ target }) => work.change({ tag: target.value })} />}
      </Field>
      <Field label={t('audience.expire')} hint={t('audience.expireHint')}>
        {(props) => (
          <input
            {...props}
            inputMode="numeric"
            value={form.expire}
            onChange={({ target }) => work.change({ expire: target.value.replace(/\D/g, '').slice(0, 9) })}
          />
        )}
      </Field>
      <ColumnField
        label={t('audience.senderColumn')}
        columns={columns}
        value={form.senderColumn}
        none={t('audience.senderFixed')}
        onChange={(senderColumn) => work.change({ senderColumn })}
      />
      <ColumnField
        label={t('audience.key')}
        hint={t('audience.keyHint')}
        columns={columns}
        value={form.keyColumn}
        none={t('audience.none')}
        onChange={(keyColumn) => work.change({ keyColumn })}
      />
      <ColumnField
        label={t('audience.ownTime')}
        hint={t('audience.ownTimeHint')}
        columns={columns}
        value={form.timeColumn}
        none={t('audience.none')}
        onChange={(timeColumn) => work.change({ timeColumn })}
      />
    </div>
  );
}

interface ColumnSelectProps {
  readonly id?: string;
  readonly columns: readonly string[];
  readonly value: string;
  /** The words for no column. */
  readonly none: string;
  readonly onChange: (column: string) => void;
}

/** A labelled choice of a column. */
export function ColumnField({ label, hint, ...select }: ColumnSelectProps & Pick<FieldProps, 'label' | 'hint'>) {
  return (
    <Field label={label} hint={hint}>
      {(props) => <ColumnSelect {...props} {...select} />}
    </Field>
  );
}

function ColumnSelect({ columns, value, none, onChange, ...props }: ColumnSelectProps) {
  return (
    <select {...props} value={value} onChange={({ target }) => onChange(target.value)}>
      <option value="">{none}</option>
      {columns.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}
