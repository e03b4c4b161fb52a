import { useQuery } from '@connectrpc/connect-query';
import { useEffect, useRef, useState } from 'react';
import { TemplateFormat, TemplateService } from '../../gen/client/sendbatch/v1/template_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useHasScope } from '../shell/use-session.ts';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { ColumnField } from './audience-section.tsx';
import type { Preview } from './engine/engine.ts';
import type { Form } from './form.ts';
import { composeTexts } from './texts.ts';
import type { Compose } from './use-compose.ts';
import { variableOf } from './variable.ts';
import { useProblemWords } from './words.ts';
import { work } from './work.ts';

interface Parts {
  readonly compose: Compose;
  readonly form: Form;
  readonly columns: readonly string[];
}

/** What the message says, and how a receiver sees it. */
export function MessageSection({ compose, form, columns }: Parts) {
  const t = useTexts(composeTexts);
  const mayReadTemplates = useHasScope('admin');
  const isOffered = { lines: compose.open?.info.holdsMessages, text: true, column: true, stored: mayReadTemplates };
  const sources = (['lines', 'text', 'column', 'stored'] as const).filter((each) => isOffered[each]);
  const labels = {
    lines: t('message.lines'),
    text: t('message.write'),
    column: t('message.column'),
    stored: t('message.stored'),
  };
  return (
    <section className="card stack" aria-labelledby="compose-message">
      <h2 id="compose-message">{t('message.title')}</h2>
      <fieldset className="row">
        <legend>{t('message.source')}</legend>
        {sources.map((source) => (
          <label key={source} className="check">
            <input
              type="radio"
              name="compose-source"
              checked={form.source === source}
              onChange={() => work.change({ source })}
            />
            {labels[source]}
          </label>
        ))}
      </fieldset>
      <div className="message-parts">
        <div className="stack">
          {form.source === 'text' ? <Editor form={form} columns={columns} /> : null}
          {form.source === 'column' ? (
            <>
              <ColumnField
                label={t('message.columnLabel')}
                columns={columns}
                value={form.payloadColumn}
                none={t('audience.choose')}
                onChange={(payloadColumn) => work.change({ payloadColumn })}
              />
              <Base64Check form={form} label={t('message.base64')} />
            </>
          ) : null}
          {form.source === 'lines' ? (
            <>
              <p>{t('message.linesHint')}</p>
              <Base64Check form={form} label={t('message.linesBase64')} />
            </>
          ) : null}
          {form.source === 'stored' ? <StoredTemplates form={form} /> : null}
          <TemplateNotices compose={compose} />
        </div>
        <PreviewPane compose={compose} />
      </div>
    </section>
  );
}

function Base64Check({ form, label }: Pick<Parts, 'form'> & { readonly label: string }) {
  return (
    <label className="check">
      <input
        type="checkbox"
        checked={form.isBase64}
        onChange={({ target }) => work.change({ isBase64: target.checked })}
      />
      {label}
    </label>
  );
}

/** The text of the message, with buttons that insert the columns of the file. */
function Editor({ form, columns }: Pick<Parts, 'form' | 'columns'>) {
  const t = useTexts(composeTexts);
  const area = useRef<HTMLTextAreaElement>(null);
  const insert = (column: string) => {
    const element = area.current;
    if (element === null) return;
    const { selectionStart, selectionEnd } = element;
    const variable = variableOf(column);
    work.change({ text: form.text.slice(0, selectionStart) + variable + form.text.slice(selectionEnd) });
    // After React has set the new text.
    requestAnimationFrame(() => {
      element.focus();
      element.setSelectionRange(selectionStart + variable.length, selectionStart + variable.length);
    });
  };
  const example = variableOf(columns.find((name) => name !== form.receiverColumn) ?? columns[0] ?? 'name');
  return (
    <>
      <Field label={t('message.text')} hint={t('message.textHint', { example })}>
        {(props) => (
          <textarea
            {...props}
            ref={area}
            rows={6}
            dir="auto"
            value={form.text}
            onChange={({ target }) => work.change({ text: target.value })}
          />
        )}
      </Field>
      <fieldset className="row">
        <legend>{t('message.insert')}</legend>
        {columns.map((name) => (
          <button key={name} type="button" className="button small" onClick={() => insert(name)}>
            {name}
          </button>
        ))}
      </fieldset>
      <label className="check">
        <input
          type="checkbox"
          checked={form.isJson}
          onChange={({ target }) => work.change({ isJson: target.checked })}
        />
        {t('message.json')}
      </label>
    </>
  );
}

function StoredTemplates({ form }: Pick<Parts, 'form'>) {
  const t = useTexts(composeTexts);
  const { data, error, isPending, refetch } = useQuery(TemplateService.method.listTemplates, { pageSize: 1000 });
  if (error !== null) return <ErrorNotice error={error} onRetry={() => void refetch()} />;
  if (isPending) return <Loading />;
  const { templates } = data;
  if (templates.length === 0) return <p className="muted">{t('message.templateNone')}</p>;
  const choose = (name: string) => {
    const chosen = templates.find((each) => each.name === name);
    const format = chosen?.format === TemplateFormat.JSON ? 'json' : 'text';
    work.change({
      templateName: name,
      // A later version must not change what was checked here.
      templateVersion: chosen?.version ?? 0,
      templateText: chosen === undefined ? undefined : { body: chosen.body, format },
    });
  };
  return (
    <>
      <ColumnField
        label={t('message.templateLabel')}
        columns={templates.map(({ name }) => name)}
        value={form.templateName}
        none={t('audience.none')}
        onChange={choose}
      />
      {form.templateText === undefined ? null : <pre className="payload">{form.templateText.body}</pre>}
    </>
  );
}

function TemplateNotices({ compose: { audience } }: { readonly compose: Compose }) {
  const t = useTexts(composeTexts);
  const words = useProblemWords();
  if (audience === undefined) return null;
  const { templateFault, unknownVariables } = audience;
  return (
    <>
      {templateFault === undefined ? null : (
        <Notice kind="warning">
          {t('message.fault', { fault: words({ code: 'template', values: { text: templateFault } }) })}
        </Notice>
      )}
      {unknownVariables.length === 0 ? null : (
        <Notice kind="warning">{t('message.unknownVariables', { names: unknownVariables.join(', ') })}</Notice>
      )}
    </>
  );
}

/** The message of one row; the buttons go to the next one that would be sent. */
function PreviewPane({ compose }: { readonly compose: Compose }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const words = useProblemWords();
  const { engine, open, plan, previewRow: row } = compose;
  const [preview, setPreview] = useState<Preview>();
  useEffect(() => {
    let isCurrent = true;
    if (plan === undefined || open === undefined || open.info.rowCount === 0) {
      setPreview(undefined);
      return;
    }
    engine.preview(plan, row).then(
      (shown) => {
        if (isCurrent) setPreview(shown);
      },
      () => {},
    );
    return () => {
      isCurrent = false;
    };
  }, [engine, open, plan, row]);
  const go = (step: 1 | -1) => void engine.nextRow(row + step, step).then((next) => work.setPreviewRow(next));
  const rowCount = open?.info.rowCount ?? 0;
  return (
    <section className="preview" aria-labelledby="compose-preview">
      <h3 id="compose-preview">{t('message.preview')}</h3>
      {preview === undefined ? (
        <p className="muted">{t('message.previewEmpty')}</p>
      ) : (
        <>
          <div className="row">
            <button type="button" className="button small" disabled={row === 0} onClick={() => go(-1)}>
              {t('message.previousRow')}
            </button>
            <button type="button" className="button small" disabled={row >= rowCount - 1} onClick={() => go(1)}>
              {t('message.nextRow')}
            </button>
            <span className="muted">
              {t('message.previewRow', { line: String(preview.line), receiver: preview.channelId || '–' })}
            </span>
          </div>
          {preview.problem === undefined ? null : <Notice kind="warning">{words(preview.problem)}</Notice>}
          {preview.payload === undefined ? (
            preview.problem === undefined ? (
              <p className="muted">{t('message.unknownText')}</p>
            ) : null
          ) : (
            <>
              <div className="bubble" data-testid="preview" dir="auto">
                {textOf(preview.payload)}
              </div>
              <p className="muted">{t('message.size', { size: format.bytes(preview.payload.length) })}</p>
            </>
          )}
          {preview.emptyVariables.length === 0 ? null : (
            <Notice kind="warning">{t('message.emptyVariables', { names: preview.emptyVariables.join(', ') })}</Notice>
          )}
        </>
      )}
    </section>
  );
}

/** A payload as text; other bytes as base64. */
export function textOf(payload: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(payload);
  } catch {
    return btoa(Array.from(payload, (byte) => String.fromCharCode(byte)).join(''));
  }
}
