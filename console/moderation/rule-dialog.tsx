import { useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useId, useState } from 'react';
import type { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { ModerationService, type Rule, RuleAction } from '../../gen/client/sendbatch/v1/moderation_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ChannelTypeChecks } from '../ui/channel-type-checks.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { ruleActions } from './action.tsx';
import { moderationTexts } from './texts.ts';

export interface RuleDialogProps {
  /** Undefined: a new rule. */
  readonly rule: Rule | undefined;
  readonly onClose: () => void;
  readonly onSaved: () => void;
}

/** Adds or edits a rule. */
export function RuleDialog({ rule, onClose, onSaved }: RuleDialogProps) {
  const t = useTexts(moderationTexts);
  const formId = useId();
  const [action, setAction] = useState<RuleAction>(rule?.action ?? RuleAction.FLAG);
  const [keywords, setKeywords] = useState(rule?.keywords.join('\n') ?? '');
  const [patterns, setPatterns] = useState(rule?.patterns.join('\n') ?? '');
  const [types, setTypes] = useState<readonly ChannelType[]>(rule?.channelTypes ?? []);
  const [tags, setTags] = useState(rule?.tagKeys.join('\n') ?? '');
  const [note, setNote] = useState(rule?.note ?? '');
  const [isChecked, setChecked] = useState(false);
  const create = useMutation(ModerationService.method.createRule, { onSuccess: onSaved });
  const update = useMutation(ModerationService.method.updateRule, { onSuccess: onSaved });
  const isPending = create.isPending || update.isPending;
  const error = create.error ?? update.error;
  const isEmpty = linesOf(keywords).length + linesOf(patterns).length === 0;

  const submit = (event: FormEvent) => {
    event.preventDefault();
    setChecked(true);
    if (isEmpty || isPending) return;
    const wish = {
      action,
      keywords: linesOf(keywords),
      patterns: linesOf(patterns),
      channelTypes: [...types],
      tagKeys: linesOf(tags),
      note: note.trim(),
    };
    if (rule === undefined) create.mutate({ rule: wish });
    else update.mutate({ ruleId: rule.ruleId, rule: wish });
  };

  const area = (value: string, set: (text: string) => void, rows: number) => (props: object) => (
    <textarea
      {...props}
      className="mono"
      rows={rows}
      value={value}
      spellCheck={false}
      onChange={({ target }) => set(target.value)}
    />
  );
  return (
    <Dialog
      title={rule === undefined ? t('form.create') : t('form.edit', { id: rule.ruleId.toString() })}
      isOpen
      onClose={onClose}
      isWide
      actions={
        <button type="submit" form={formId} className="button primary" aria-disabled={isPending}>
          {isPending ? t('form.saving') : t('form.save')}
        </button>
      }
    >
      <form id={formId} className="stack" onSubmit={submit} noValidate>
        <fieldset>
          <legend>{t('form.action')}</legend>
          {ruleActions.map((each) => (
            <label key={each.name} className="check">
              <input
                type="radio"
                name={`${formId}-action`}
                checked={action === each.action}
                onChange={() => setAction(each.action)}
              />
              <span>
                {t(`actions.${each.name}`)} <span className="hint">{t(`form.actionHints.${each.name}`)}</span>
              </span>
            </label>
          ))}
        </fieldset>
        <Field
          label={t('form.keywords')}
          hint={t('form.keywordsHint')}
          error={isChecked && isEmpty ? t('form.nothing') : undefined}
        >
          {area(keywords, setKeywords, 5)}
        </Field>
        <Field label={t('form.patterns')} hint={t('form.patternsHint')}>
          {area(patterns, setPatterns, 2)}
        </Field>
        <ChannelTypeChecks
          legend={t('form.channelTypes')}
          hint={t('form.channelTypesHint')}
          value={types}
          onChange={setTypes}
        />
        <Field label={t('form.tags')} hint={t('form.tagsHint')}>
          {area(tags, setTags, 2)}
        </Field>
        <Field label={t('form.note')} hint={t('form.noteHint')}>
          {(props) => (
            <input {...props} value={note} maxLength={500} onChange={({ target }) => setNote(target.value)} />
          )}
        </Field>
      </form>
      {error === null ? null : <ErrorNotice error={error} />}
    </Dialog>
  );
}

/** The lines of a text that are not blank. Spaces inside a keyword count. */
function linesOf(text: string): string[] {
  return [
    ...new Set(
      text
        .split('\n')
        .map((line) => line.trim())
        .filter(Boolean),
    ),
  ];
}
