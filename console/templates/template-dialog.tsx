import { useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useId, useState } from 'react';
import { type Template, TemplateFormat, TemplateService } from '../../gen/client/sendbatch/v1/template_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { templateTexts } from './texts.ts';

export interface TemplateDialogProps {
  /** The version to start from; undefined: a new template. */
  readonly base: Template | undefined;
  readonly onClose: () => void;
  readonly onSaved: (template: Template) => void;
}

/** Stores a template, or the next version of one. */
export function TemplateDialog({ base, onClose, onSaved }: TemplateDialogProps) {
  const t = useTexts(templateTexts);
  const formId = useId();
  const [name, setName] = useState(base?.name ?? '');
  const [body, setBody] = useState(base?.body ?? '');
  const [format, setFormat] = useState<TemplateFormat>(base?.format ?? TemplateFormat.TEXT);
  const [isChecked, setChecked] = useState(false);
  const create = useMutation(TemplateService.method.createTemplate, {
    onSuccess: ({ template }) => {
      if (template !== undefined) onSaved(template);
    },
  });
  const isNameGood = /^[A-Za-z0-9._-]{1,128}$/.test(name);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (isNameGood && body !== '' && !create.isPending) create.mutate({ name, body, format });
  };
  return (
    <Dialog
      title={base === undefined ? t('create') : t('form.newVersion')}
      isOpen
      onClose={onClose}
      isWide
      actions={
        <button type="submit" form={formId} className="button primary" aria-disabled={create.isPending}>
          {create.isPending ? t('form.saving') : t('form.save')}
        </button>
      }
    >
      <form id={formId} className="stack" onSubmit={submit} noValidate>
        {base === undefined ? (
          <Field
            label={t('form.name')}
            hint={t('form.nameHint')}
            error={isChecked && !isNameGood ? t('form.nameWrong') : undefined}
          >
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
        ) : (
          <p>{t('form.newVersionText')}</p>
        )}
        <Field label={t('form.format')} hint={t('form.formatHint')}>
          {(props) => (
            <select
              {...props}
              value={format}
              onChange={({ target }) => setFormat(Number(target.value) as TemplateFormat)}
            >
              <option value={TemplateFormat.TEXT}>{t('formats.text')}</option>
              <option value={TemplateFormat.JSON}>{t('formats.json')}</option>
            </select>
          )}
        </Field>
        <Field
          label={t('form.body')}
          hint={t('form.bodyHint', { example: '{{ name }}' })}
          error={isChecked && body === '' ? t('form.bodyMissing') : undefined}
        >
          {(props) => (
            <textarea
              {...props}
              className="mono"
              rows={10}
              value={body}
              spellCheck={false}
              onChange={({ target }) => setBody(target.value)}
            />
          )}
        </Field>
      </form>
      {create.error === null ? null : <ErrorNotice error={create.error} />}
    </Dialog>
  );
}
