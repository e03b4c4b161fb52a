import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Client } from '@connectrpc/connect';
import { type FormEvent, useState } from 'react';
import type { MessageService } from '../../src/client/index.ts';
import { momentsOf } from '../i18n/local-time.ts';
import { useTimeZone } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ErrorNotice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { ChannelAddress } from './channel.ts';
import { channelTexts } from './texts.ts';

export interface JumpFormsProps {
  readonly channel: ChannelAddress;
  readonly rpc: Client<typeof MessageService>;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly onJump: (seq: number) => void;
}

/** Goes to a message by its number, to the first one since a time, or to the newest. */
export function JumpForms({ channel, rpc, firstSeq, lastSeq, onJump }: JumpFormsProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const timeZone = useTimeZone();
  const [seqText, setSeqText] = useState('');
  const [timeText, setTimeText] = useState('');
  const [problem, setProblem] = useState<{ readonly of: 'seq' | 'time'; readonly text: string }>();
  const [error, setError] = useState<unknown>();

  function jumpToSeq(event: FormEvent): void {
    event.preventDefault();
    const seq = Number(seqText);
    const isThere = Number.isInteger(seq) && seq >= Math.max(firstSeq, 1) && seq <= lastSeq;
    const text = t('messages.noSuchSeq', { first: format.number(firstSeq), last: format.number(lastSeq) });
    setProblem(isThere ? undefined : { of: 'seq', text });
    if (isThere) onJump(seq);
  }

  async function jumpToTime(event: FormEvent): Promise<void> {
    event.preventDefault();
    setProblem(undefined);
    setError(undefined);
    const [since] = momentsOf(timeText, timeZone);
    if (since === undefined) {
      setProblem({ of: 'time', text: t('messages.noTime', { zone: timeZone }) });
      return;
    }
    try {
      const { messages } = await rpc.listMessages({ ...channel, since: timestampFromMs(since), limit: 1 });
      const [message] = messages;
      if (message === undefined) setProblem({ of: 'time', text: t('messages.nothingSince') });
      else onJump(Number(message.messageSeq));
    } catch (thrown) {
      setError(thrown);
    }
  }

  return (
    <>
      <div className="row end">
        <form className="row end" onSubmit={jumpToSeq}>
          <Field label={t('messages.jumpSeq')} error={problem?.of === 'seq' ? problem.text : undefined}>
            {(props) => (
              <input
                {...props}
                className="jump-seq"
                inputMode="numeric"
                value={seqText}
                onChange={({ target }) => setSeqText(target.value.trim())}
              />
            )}
          </Field>
          <button type="submit" className="button">
            {t('messages.go')}
          </button>
        </form>
        <form className="row end" onSubmit={(event) => void jumpToTime(event)}>
          <Field
            label={t('messages.jumpTime', { zone: timeZone })}
            error={problem?.of === 'time' ? problem.text : undefined}
          >
            {(props) => (
              <input
                {...props}
                type="datetime-local"
                step={1}
                value={timeText}
                onChange={({ target }) => setTimeText(target.value)}
              />
            )}
          </Field>
          <button type="submit" className="button">
            {t('messages.go')}
          </button>
        </form>
        <button type="button" className="button" disabled={lastSeq === 0} onClick={() => onJump(lastSeq)}>
          {t('messages.latest')}
        </button>
      </div>
      {error === undefined ? null : <ErrorNotice error={error} />}
    </>
  );
}
