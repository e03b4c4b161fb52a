import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import { useState } from 'react';
import { ModerationService, type Rule } from '../../gen/client/sendbatch/v1/moderation_service_pb.ts';
import { channelTypeName } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { TableScroll } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { ActionBadge } from './action.tsx';
import { RuleDialog } from './rule-dialog.tsx';
import { ModerationTabs } from './tabs.tsx';
import { moderationTexts } from './texts.ts';

const pageSize = 100;

/** The rules: added, edited, deleted. */
export default function RulesPage() {
  const t = useTexts(moderationTexts);
  const [editing, setEditing] = useState<Rule | 'new'>();
  const [removing, setRemoving] = useState<Rule>();
  const [done, setDone] = useState<'saved' | 'removed'>();
  const list = useInfiniteQuery(
    ModerationService.method.listRules,
    { pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf },
  );
  const changed = (what: 'saved' | 'removed') => {
    setDone(what);
    setEditing(undefined);
    setRemoving(undefined);
    void list.refetch();
  };
  const remove = useMutation(ModerationService.method.deleteRule, { onSuccess: () => changed('removed') });
  const rules = list.data?.pages.flatMap((page) => page.rules) ?? [];
  return (
    <Page
      title={t('title')}
      lead={t('rules.lead')}
      actions={
        <button type="button" className="button primary" onClick={() => setEditing('new')}>
          {t('rules.create')}
        </button>
      }
    >
      <ModerationTabs />
      {done === undefined ? null : <Notice kind="success">{t(`rules.${done}`)}</Notice>}
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending ? <Loading /> : null}
      {list.data !== undefined && rules.length === 0 ? (
        <Empty title={t('rules.empty')}>
          <p>{t('rules.emptyText')}</p>
        </Empty>
      ) : null}
      {rules.length === 0 ? null : <RuleTable rules={rules} onEdit={setEditing} onRemove={setRemoving} />}
      <MoreButton {...list} />
      {editing === undefined ? null : (
        <RuleDialog
          rule={editing === 'new' ? undefined : editing}
          onClose={() => setEditing(undefined)}
          onSaved={() => changed('saved')}
        />
      )}
      <ConfirmDialog
        title={t('remove.title', { id: String(removing?.ruleId ?? '') })}
        isOpen={removing !== undefined}
        onClose={() => {
          setRemoving(undefined);
          remove.reset();
        }}
        confirm={t('remove.confirm')}
        isDanger
        action={remove}
        onConfirm={() => remove.mutate({ ruleId: removing?.ruleId ?? 0n })}
      >
        <p>{t('remove.text')}</p>
      </ConfirmDialog>
    </Page>
  );
}

interface RuleTableProps {
  readonly rules: readonly Rule[];
  readonly onEdit: (rule: Rule) => void;
  readonly onRemove: (rule: Rule) => void;
}

/** Keywords and patterns of a rule that the table shows. */
const shownWords = 6;

function RuleTable({ rules, onEdit, onRemove }: RuleTableProps) {
  const t = useTexts(moderationTexts);
  const { language } = usePreferences();
  return (
    <TableScroll label={t('rules.table')}>
      <table>
        <thead>
          <tr>
            <th scope="col">{t('rules.id')}</th>
            <th scope="col">{t('rules.action')}</th>
            <th scope="col">{t('rules.matches')}</th>
            <th scope="col">{t('rules.only')}</th>
            <th scope="col">
              <span className="visually-hidden">{t('rules.edit')}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {rules.map((rule) => {
            const id = rule.ruleId.toString();
            const only = [...rule.channelTypes.map((type) => channelTypeName(type, language)), ...rule.tagKeys];
            const words = [...rule.keywords, ...rule.patterns];
            return (
              <tr key={id}>
                <th scope="row" className={rule.note === '' ? undefined : 'breakable'}>
                  {id}
                  {rule.note === '' ? null : <div className="muted small">{rule.note}</div>}
                </th>
                <td>
                  <ActionBadge action={rule.action} />
                </td>
                <td className="breakable">
                  <div>
                    {words.slice(0, shownWords).join(' · ')}
                    {words.length > shownWords ? ' …' : ''}
                  </div>
                  <div className="muted small">
                    {[
                      ...(rule.keywords.length === 0 ? [] : [t('rules.keywords', { count: rule.keywords.length })]),
                      ...(rule.patterns.length === 0 ? [] : [t('rules.patterns', { count: rule.patterns.length })]),
                    ].join(', ')}
                  </div>
                </td>
                <td className="breakable">
                  {only.length === 0 ? <span className="muted">{t('rules.everywhere')}</span> : only.join(', ')}
                </td>
                <td>
                  <div className="row unbroken">
                    <button
                      type="button"
                      className="button small"
                      aria-label={t('rules.editOf', { id })}
                      onClick={() => onEdit(rule)}
                    >
                      {t('rules.edit')}
                    </button>
                    <button
                      type="button"
                      className="button small danger"
                      aria-label={t('rules.removeOf', { id })}
                      onClick={() => onRemove(rule)}
                    >
                      {t('rules.remove')}
                    </button>
                  </div>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </TableScroll>
  );
}
