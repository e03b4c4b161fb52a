import { type FormEvent, useId, useState } from 'react';
import { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Dialog } from '../ui/dialog.tsx';
import { Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { EngineNotice } from './notice.tsx';
import { composeTexts } from './texts.ts';
import type { Compose } from './use-compose.ts';
import { connection, toSignIn } from './work.ts';

const [person, group] = [ChannelType.PERSON, ChannelType.GROUP];
const otherTypes = ['2', '3', '4', '5', '6', '7', '8', '9', '10', '11', '12'] as const;

/** Sends the message of the previewed row once, to a channel of the user's choice. */
export function TestDialog({ compose }: { readonly compose: Compose }) {
  const t = useTexts(composeTexts);
  const { engine, plan, previewRow, ownUid } = compose;
  const [isOpen, setOpen] = useState(false);
  const [channelType, setChannelType] = useState<ChannelType>(person);
  const [channelId, setChannelId] = useState(ownUid ?? '');
  const [isSending, setSending] = useState(false);
  const [seq, setSeq] = useState<bigint>();
  const [error, setError] = useState<unknown>();
  const [isEmpty, setEmpty] = useState(false);
  const formId = useId();
  const open = () => {
    // What was sent before may have changed.
    setSeq(undefined);
    setError(undefined);
    setOpen(true);
  };
  async function send(event: FormEvent): Promise<void> {
    event.preventDefault();
    setEmpty(channelId.trim() === '');
    if (channelId.trim() === '' || plan === undefined || isSending) return;
    setError(undefined);
    setSeq(undefined);
    setSending(true);
    const service = connection();
    try {
      setSeq(await engine.sendTest(service, plan, { row: previewRow, channelType, channelId: channelId.trim() }));
    } catch (thrown) {
      setError(thrown);
      toSignIn(thrown, service);
    } finally {
      setSending(false);
    }
  }
  return (
    <>
      <button type="button" className="button" disabled={plan === undefined} onClick={open}>
        {t('test.button')}
      </button>
      <Dialog
        title={t('test.title')}
        isOpen={isOpen}
        onClose={() => setOpen(false)}
        actions={
          <button type="submit" form={formId} className="button primary" disabled={isSending}>
            {isSending ? t('test.sending') : t('test.send')}
          </button>
        }
      >
        <form id={formId} className="stack" onSubmit={(event) => void send(event)}>
          <p>{t('test.lead')}</p>
          <fieldset className="row">
            <legend>{t('test.kind')}</legend>
            {[person, group].map((type) => (
              <label key={type} className="check">
                <input
                  type="radio"
                  name="compose-test-kind"
                  checked={type === person ? channelType === person : channelType !== person}
                  onChange={() => setChannelType(type)}
                />
                {type === person ? t('test.person') : t('test.group')}
              </label>
            ))}
          </fieldset>
          {channelType === person ? null : (
            <Field label={t('audience.kind')}>
              {(props) => (
                <select
                  {...props}
                  value={String(channelType)}
                  onChange={({ target }) => setChannelType(Number(target.value) as ChannelType)}
                >
                  {otherTypes.map((type) => (
                    <option key={type} value={type}>
                      {t(`audience.kinds.${type}`)}
                    </option>
                  ))}
                </select>
              )}
            </Field>
          )}
          <Field
            label={channelType === person ? t('test.id') : t('test.groupId')}
            error={isEmpty ? t('test.needId') : undefined}
          >
            {(props) => (
              <input
                {...props}
                value={channelId}
                spellCheck={false}
                autoComplete="off"
                onChange={({ target }) => setChannelId(target.value)}
              />
            )}
          </Field>
          {seq === undefined ? null : <Notice kind="success">{t('test.sent', { seq: String(seq) })}</Notice>}
          {error === undefined ? null : <EngineNotice error={error} />}
        </form>
      </Dialog>
    </>
  );
}
