import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import { Link, useLocation } from 'wouter';
import { type Template, TemplateFormat, TemplateService } from '../../gen/client/sendbatch/v1/template_service_pb.ts';
import { jsonOf, textOf } from '../channels/payload.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useQueryParams, useSegments } from '../ui/address.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { Facts, Time } from '../ui/display.tsx';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { Diff } from './diff-view.tsx';
import { TemplateDialog } from './template-dialog.tsx';
import { templateTexts } from './texts.ts';

const pageSize = 100;

/** A template: its versions, a preview, and what changed between two versions. */
export default function TemplatePage() {
  const t = useTexts(templateTexts);
  const [, name = ''] = useSegments();
  const [, navigate] = useLocation();
  const [params, setParams] = useQueryParams();
  const [open, setOpen] = useState<'version' | 'remove'>();
  const close = () => setOpen(undefined);
  const list = useInfiniteQuery(
    TemplateService.method.listTemplateVersions,
    { name, pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf },
  );
  const remove = useMutation(TemplateService.method.deleteTemplate, { onSuccess: () => navigate('/templates') });
  const versions = list.data?.pages.flatMap((page) => page.versions) ?? [];
  const [latest] = versions;
  const shown = versions.find(({ version }) => String(version) === params.get('version')) ?? latest;
  const compared = versions.find(({ version }) => String(version) === params.get('with'));
  const textOfVersion = (version: number) =>
    version === latest?.version ? t('version.latest', { version: String(version) }) : String(version);
  return (
    <Page
      title={name}
      lead={<Link href="/templates">{t('all')}</Link>}
      actions={
        latest === undefined ? undefined : (
          <>
            <button type="button" className="button primary" onClick={() => setOpen('version')}>
              {t('form.newVersion')}
            </button>
            <button type="button" className="button danger" onClick={() => setOpen('remove')}>
              {t('remove.action')}
            </button>
          </>
        )
      }
    >
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending ? <Loading /> : null}
      {shown === undefined ? null : (
        <>
          <div className="row end">
            <Field label={t('version.label')}>
              {(props) => (
                <select
                  {...props}
                  value={shown.version}
                  onChange={({ target }) => setParams({ version: target.value }, { push: true })}
                >
                  {versions.map(({ version }) => (
                    <option key={version} value={version}>
                      {textOfVersion(version)}
                    </option>
                  ))}
                </select>
              )}
            </Field>
            <MoreButton {...list} />
          </div>
          <section className="card stack" aria-label={t('version.text', { version: String(shown.version) })}>
            <Facts
              items={[
                [t('columns.format'), shown.format === TemplateFormat.JSON ? t('formats.json') : t('formats.text')],
                [t('version.stored'), <Time key="stored" value={shown.createdAt} />],
                [t('version.variables'), shown.variables.join(', ') || t('noVariables')],
              ]}
            />
            <pre className="payload">{shown.body}</pre>
          </section>
          <Preview key={`${shown.name} ${shown.version}`} template={shown} />
          {versions.length < 2 ? null : (
            <section className="card stack">
              <h2>{t('diff.title')}</h2>
              <Field label={t('diff.with')}>
                {(props) => (
                  <select
                    {...props}
                    value={compared?.version ?? ''}
                    onChange={({ target }) => setParams({ with: target.value })}
                  >
                    <option value="">{t('diff.none')}</option>
                    {versions
                      .filter(({ version }) => version !== shown.version)
                      .map(({ version }) => (
                        <option key={version} value={version}>
                          {textOfVersion(version)}
                        </option>
                      ))}
                  </select>
                )}
              </Field>
              {compared === undefined || compared.version === shown.version ? null : (
                <Diff
                  from={compared.version < shown.version ? compared : shown}
                  to={compared.version < shown.version ? shown : compared}
                />
              )}
            </section>
          )}
        </>
      )}
      {open === 'version' ? (
        <TemplateDialog
          base={shown}
          onClose={close}
          onSaved={() => {
            close();
            setParams({ version: '', with: '' });
            void list.refetch();
          }}
        />
      ) : null}
      <ConfirmDialog
        title={t('remove.title', { name })}
        isOpen={open === 'remove'}
        onClose={() => {
          close();
          remove.reset();
        }}
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

const maxBytes = 65_536;

/** Renders a version with values that are entered; on the server, as a send does. */
function Preview({ template }: { readonly template: Template }) {
  const t = useTexts(templateTexts);
  const format = useFormat();
  const [values, setValues] = useState<Readonly<Record<string, string>>>({});
  const preview = useMutation(TemplateService.method.previewTemplate);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (preview.isPending) return;
    const variables = Object.fromEntries(template.variables.map((name) => [name, values[name] ?? '']));
    preview.mutate({ name: template.name, version: template.version, variables });
  };
  const payload = preview.data?.payload;
  return (
    <form className="card stack" onSubmit={submit} aria-label={t('preview.title')}>
      <h2>{t('preview.title')}</h2>
      <p className="muted">{template.variables.length === 0 ? t('preview.noVariables') : t('preview.lead')}</p>
      <div className="grid">
        {template.variables.map((name) => (
          <Field key={name} label={name}>
            {(props) => (
              <input
                {...props}
                value={values[name] ?? ''}
                onChange={({ target }) => setValues({ ...values, [name]: target.value })}
              />
            )}
          </Field>
        ))}
      </div>
      <div>
        <button type="submit" className="button" aria-disabled={preview.isPending}>
          {preview.isPending ? t('preview.busy') : t('preview.submit')}
        </button>
      </div>
      <div className="stack" aria-live="polite">
        {preview.error === null ? null : <ErrorNotice error={preview.error} />}
        {payload === undefined ? null : (
          <>
            <p className="small muted">{t('preview.result', { size: format.bytes(payload.length) })}</p>
            {payload.length > maxBytes ? (
              <Notice kind="warning">{t('preview.tooLarge', { size: format.bytes(maxBytes) })}</Notice>
            ) : null}
            <pre className="payload">{jsonOf(payload) ?? textOf(payload)}</pre>
          </>
        )}
      </div>
    </form>
  );
}
