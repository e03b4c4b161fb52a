import type { Client } from '@connectrpc/connect';
import { useEffect, useMemo, useState } from 'react';
import { type Message, type MessageService, MessageState } from '../../src/client/index.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useHasScope } from '../shell/use-session.ts';
import { CopyButton } from '../ui/copy.tsx';
import { Dialog } from '../ui/dialog.tsx';
import { Badge, Facts, Time } from '../ui/display.tsx';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import type { ChannelAddress } from './channel.ts';
import { bestFormat, hexOf, jsonOf, type PayloadFormat, payloadFormats, textOf } from './payload.ts';
import { channelTexts } from './texts.ts';

export interface MessagePanelProps {
  readonly channel: ChannelAddress;
  readonly seq: number | undefined;
  /** Null when it is no longer kept, undefined while it is being read. */
  readonly message: Message | null | undefined;
  readonly rpc: Client<typeof MessageService>;
  readonly onClose: () => void;
}

/** All of the chosen message, beside the list. */
export function MessagePanel({ channel, seq, message, rpc, onClose }: MessagePanelProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  return (
    <section className="card stack message-panel" aria-live="polite">
      {seq === undefined ? (
        <p className="muted">{t('message.none')}</p>
      ) : (
        <>
          <div className="row spread">
            <h2>{t('message.title', { seq: format.number(seq) })}</h2>
            <div className="row">
              <CopyButton text={window.location.href} label={t('message.link')} />
              <button type="button" className="button small quiet" aria-label={t('message.close')} onClick={onClose}>
                ✕
              </button>
            </div>
          </div>
          {message === undefined ? <p className="muted">{t('messages.loading')}</p> : null}
          {message === null ? <p className="muted">{t('messages.gone')}</p> : null}
          {message ? <MessageDetails key={seq} channel={channel} message={message} rpc={rpc} /> : null}
        </>
      )}
    </section>
  );
}

interface MessageDetailsProps {
  readonly channel: ChannelAddress;
  readonly message: Message;
  readonly rpc: Client<typeof MessageService>;
}

function MessageDetails({ channel, message, rpc }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const maySend = useHasScope('send');
  const isRecalled = message.state === MessageState.RECALLED;
  const { tagKey, streamNo, expire, header } = message;
  return (
    <>
      {isRecalled ? (
        <Notice kind="warning">
          {t('message.recalledBy', {
            uid: message.recalledBy ?? '',
            time: message.recalledAt === undefined ? '' : format.time(message.recalledAt),
          })}
        </Notice>
      ) : (
        <Payload payload={message.payload} />
      )}
      {message.editedAt === undefined ? null : (
        <p className="muted">
          {t('message.editedAt', { time: format.time(message.editedAt), revision: String(message.revision ?? 0) })}
        </p>
      )}
      <Facts
        items={[
          [t('message.from'), message.fromUid],
          [t('message.at'), <Time key="at" value={message.timestamp} />],
          [t('message.size'), format.bytes(message.payload.length)],
          ...(expire === 0
            ? []
            : ([
                [t('message.expires'), t('message.expiresAfter', { duration: format.duration(expire * 1000) })],
              ] as const)),
          ...(header?.redDot ? ([[t('message.flags'), <Badge key="red">{t('message.redDot')}</Badge>]] as const) : []),
          ...(tagKey === '' ? [] : ([[t('message.tag'), tagKey]] as const)),
          ...(streamNo === '' ? [] : ([[t('message.stream'), streamNo]] as const)),
          [t('message.id'), <code key="id">{String(message.messageId)}</code>],
          [t('message.key'), <code key="key">{message.clientMsgNo}</code>],
        ]}
      />
      {maySend && !isRecalled ? <RecallButton channel={channel} message={message} rpc={rpc} /> : null}
    </>
  );
}

function Payload({ payload }: { readonly payload: Uint8Array }) {
  const t = useTexts(channelTexts);
  const [chosen, setChosen] = useState<PayloadFormat>();
  const best = useMemo(() => bestFormat(payload), [payload]);
  const shown = chosen ?? best;
  const text = useMemo(() => {
    if (shown === 'hex') return hexOf(payload);
    return shown === 'json' ? jsonOf(payload) : textOf(payload);
  }, [payload, shown]);
  return (
    <div className="stack tight">
      <fieldset className="choice">
        <legend className="visually-hidden">{t('message.format')}</legend>
        {payloadFormats.map((format) => (
          <label key={format}>
            <input
              type="radio"
              name="payload-format"
              className="visually-hidden"
              checked={format === shown}
              onChange={() => setChosen(format)}
            />
            <span>{t(`message.formats.${format}`)}</span>
          </label>
        ))}
      </fieldset>
      {text === undefined ? (
        <p className="muted">{t(shown === 'json' ? 'message.notJson' : 'message.notText')}</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to be reachable by keyboard (WCAG 2.1.1).
        <pre className={shown === 'hex' ? 'payload hex' : 'payload'} tabIndex={0}>
          {text}
        </pre>
      )}
    </div>
  );
}

/** Recalls the message, after a question. */
function RecallButton({ channel, message, rpc }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const [isOpen, setOpen] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    if (isOpen) setError(undefined);
  }, [isOpen]);

  async function recall(): Promise<void> {
    if (isBusy) return;
    setBusy(true);
    setError(undefined);
    try {
      // The tail brings the change to the list.
      await rpc.recallMessages({ ...channel, messageSeqs: [message.messageSeq] });
      setOpen(false);
    } catch (thrown) {
      setError(thrown);
    } finally {
      setBusy(false);
    }
  }

  return (
    <div>
      <button type="button" className="button danger small" onClick={() => setOpen(true)}>
        {t('message.recall')}
      </button>
      <Dialog
        title={t('message.recallTitle')}
        isOpen={isOpen}
        onClose={() => setOpen(false)}
        actions={
          <button type="button" className="button danger" aria-disabled={isBusy} onClick={() => void recall()}>
            {t('message.recallConfirm')}
          </button>
        }
      >
        <p>{t('message.recallText')}</p>
        {error === undefined ? null : <ErrorNotice error={error} />}
      </Dialog>
    </div>
  );
}
