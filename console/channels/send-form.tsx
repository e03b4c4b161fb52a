import type { Client } from '@connectrpc/connect';
import { type FormEvent, useState } from 'react';
import type { MessageService } from '../../src/client/index.ts';
import { randomKey } from '../../src/client/random-key.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useSession } from '../shell/use-session.ts';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { ChannelAddress } from './channel.ts';
import { channelTexts } from './texts.ts';

export interface SendFormProps {
  readonly channel: ChannelAddress;
  readonly rpc: Client<typeof MessageService>;
}

/** Sends one text to the channel. */
export function SendForm({ channel, rpc }: SendFormProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const session = useSession();
  const caller = session.state === 'signedIn' ? session.info.caller : undefined;
  const [fromUid, setFromUid] = useState(caller?.isUser ? caller.name : '');
  const [text, setText] = useState('');
  const [redDot, setRedDot] = useState(true);
  const [key, setKey] = useState(randomKey);
  const [isChecked, setChecked] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [sentSeq, setSentSeq] = useState<bigint>();
  const [error, setError] = useState<unknown>();
  /** Another message needs another key; the same one after an error must not be stored twice. */
  const change = (apply: () => void) => {
    apply();
    setKey(randomKey());
  };

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    setChecked(true);
    setSentSeq(undefined);
    setError(undefined);
    if (fromUid.trim() === '' || text === '' || isBusy) return;
    setBusy(true);
    try {
      const { messageSeq } = await rpc.send({
        message: {
          ...channel,
          fromUid: fromUid.trim(),
          clientMsgNo: key,
          header: { redDot: redDot ? 1 : 0 },
          payload: new TextEncoder().encode(text),
        },
      });
      setSentSeq(messageSeq);
      setChecked(false);
      change(() => setText(''));
    } catch (thrown) {
      setError(thrown);
    } finally {
      setBusy(false);
    }
  }

  return (
    <form className="card stack" onSubmit={(event) => void submit(event)}>
      <h2>{t('send.title')}</h2>
      <Field label={t('send.from')} error={isChecked && fromUid.trim() === '' ? t('send.fromMissing') : undefined}>
        {(props) => (
          <input
            {...props}
            value={fromUid}
            autoComplete="off"
            spellCheck={false}
            readOnly={caller?.isUser ?? false}
            onChange={({ target }) => change(() => setFromUid(target.value))}
          />
        )}
      </Field>
      <Field label={t('send.text')} error={isChecked && text === '' ? t('send.textMissing') : undefined}>
        {(props) => <textarea {...props} value={text} onChange={({ target }) => change(() => setText(target.value))} />}
      </Field>
      <label className="check">
        <input type="checkbox" checked={redDot} onChange={({ target }) => change(() => setRedDot(target.checked))} />
        {t('send.redDot')}
      </label>
      {error === undefined ? null : <ErrorNotice error={error} />}
      <div className="row">
        <button type="submit" className="button primary" aria-disabled={isBusy}>
          {isBusy ? t('send.sending') : t('send.submit')}
        </button>
        <span role="status">{sentSeq === undefined ? '' : t('send.sent', { seq: format.number(sentSeq) })}</span>
      </div>
    </form>
  );
}
