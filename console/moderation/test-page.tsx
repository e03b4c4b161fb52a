import { useMutation, useQuery } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import {
  ModerationService,
  RuleAction,
  type TestRulesResponse,
} from '../../gen/client/sendbatch/v1/moderation_service_pb.ts';
import { ChannelType } from '../../src/client/index.ts';
import { textOf } from '../channels/payload.ts';
import { channelTypeName, channelTypes } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { TableScroll } from '../ui/display.tsx';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { Page } from '../ui/page.tsx';
import { ActionBadge } from './action.tsx';
import { ModerationTabs } from './tabs.tsx';
import { moderationTexts } from './texts.ts';

const maxBytes = 65_536;

/** What the rules would do with a text. */
export default function TestPage() {
  const t = useTexts(moderationTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const [text, setText] = useState('');
  const [channelType, setType] = useState<number>(ChannelType.GROUP);
  const [tagKey, setTag] = useState('');
  const [isChecked, setChecked] = useState(false);
  const test = useMutation(ModerationService.method.testRules);
  const payload = new TextEncoder().encode(text);
  const fault =
    payload.length === 0
      ? isChecked
        ? t('test.empty')
        : undefined
      : payload.length > maxBytes
        ? t('test.tooLong', { size: format.bytes(maxBytes) })
        : undefined;
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (payload.length === 0 || payload.length > maxBytes || test.isPending) return;
    test.mutate({ channelType: channelType as ChannelType, tagKey: tagKey.trim(), payload });
  };
  return (
    <Page title={t('title')} lead={t('test.lead')}>
      <ModerationTabs />
      <form className="card stack" onSubmit={submit} noValidate>
        <Field label={t('test.text')} error={fault}>
          {(props) => <textarea {...props} rows={5} value={text} onChange={({ target }) => setText(target.value)} />}
        </Field>
        <div className="grid">
          <Field label={t('test.channelType')}>
            {(props) => (
              <select {...props} value={channelType} onChange={({ target }) => setType(Number(target.value))}>
                {channelTypes.map((type) => (
                  <option key={type} value={type}>
                    {channelTypeName(type, language)}
                  </option>
                ))}
              </select>
            )}
          </Field>
          <Field label={t('test.tag')}>
            {(props) => (
              <input {...props} value={tagKey} maxLength={128} onChange={({ target }) => setTag(target.value)} />
            )}
          </Field>
        </div>
        <div>
          <button type="submit" className="button primary" aria-disabled={test.isPending}>
            {test.isPending ? t('test.trying') : t('test.submit')}
          </button>
        </div>
      </form>
      <div className="stack" aria-live="polite">
        {test.error === null ? null : <ErrorNotice error={test.error} />}
        {test.data === undefined || test.isPending ? null : <Outcome result={test.data} />}
      </div>
    </Page>
  );
}

function Outcome({ result }: { readonly result: TestRulesResponse }) {
  const t = useTexts(moderationTexts);
  const { data } = useQuery(ModerationService.method.listRules, {});
  const matches = [
    ...result.refusedBy.map((id) => ({ id, action: RuleAction.REFUSE })),
    ...result.maskedBy.map((id) => ({ id, action: RuleAction.MASK })),
    ...result.flaggedBy.map((id) => ({ id, action: RuleAction.FLAG })),
  ];
  const noteOf = (id: bigint) => data?.rules.find(({ ruleId }) => ruleId === id)?.note ?? '';
  const [kind, words] =
    result.refusedBy.length > 0
      ? (['warning', t('test.refused')] as const)
      : result.flaggedBy.length > 0
        ? (['info', t('test.flagged')] as const)
        : result.maskedBy.length > 0
          ? (['info', t('test.changed')] as const)
          : (['success', t('test.passes')] as const);
  return (
    <>
      <Notice kind={kind}>{words}</Notice>
      {matches.length === 0 ? null : (
        <TableScroll label={t('test.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('rules.id')}</th>
                <th scope="col">{t('rules.action')}</th>
                <th scope="col">{t('form.note')}</th>
              </tr>
            </thead>
            <tbody>
              {matches.map(({ id, action }) => (
                <tr key={`${action}-${id}`}>
                  <th scope="row">{id.toString()}</th>
                  <td>
                    <ActionBadge action={action} />
                  </td>
                  <td className="breakable">{noteOf(id)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      {result.maskedBy.length === 0 || result.refusedBy.length > 0 ? null : (
        <div className="card">
          <h2>{t('test.after')}</h2>
          <pre className="payload">{textOf(result.payload) ?? ''}</pre>
        </div>
      )}
    </>
  );
}
