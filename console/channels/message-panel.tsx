import type { RefObject } from 'react';
import { type Message, MessageState } from '../../src/client/index.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { hasScope, useSession } from '../shell/use-session.ts';
import { CopyButton } from '../ui/copy.tsx';
import { Badge, Facts, Time } from '../ui/display.tsx';
import { Notice } from '../ui/feedback.tsx';
import type { ChannelAddress } from './channel.ts';
import { Copies } from './copies.tsx';
import { EditButton, RecallButton } from './message-actions.tsx';
import { PayloadView } from './payload-view.tsx';
import { Readers } from './readers.tsx';
import { channelTexts } from './texts.ts';

export interface MessagePanelProps {
  readonly channel: ChannelAddress;
  readonly seq: number | undefined;
  /** Null when it is no longer kept, undefined while it is being read. */
  readonly message: Message | null | undefined;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly heading: RefObject<HTMLHeadingElement | null>;
  readonly onClose: () => void;
}

/** All of the chosen message, beside the list. */
export function MessagePanel({ heading, channel, seq, message, firstSeq, lastSeq, onClose }: MessagePanelProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const isMissing = seq !== undefined && (seq < firstSeq || seq > lastSeq);
  return (
    <section className="card stack message-panel" aria-live="polite">
      {seq === undefined ? (
        <p className="muted">{t('message.none')}</p>
      ) : (
        <>
          <div className="row spread">
            <h2 ref={heading} tabIndex={-1}>
              {t('message.title', { seq: format.number(seq) })}
            </h2>
            <div className="row">
              <CopyButton text={window.location.href} label={t('message.link')} />
              <button type="button" className="button small quiet" aria-label={t('message.close')} onClick={onClose}>
                ✕
              </button>
            </div>
          </div>
          {isMissing ? (
            <p className="muted">
              {t('messages.noSuchSeq', { first: format.number(firstSeq), last: format.number(lastSeq) })}
            </p>
          ) : message === undefined ? (
            <p className="muted">{t('messages.loading')}</p>
          ) : message === null ? (
            <p className="muted">{t('messages.gone')}</p>
          ) : (
            <MessageDetails key={seq} channel={channel} message={message} />
          )}
        </>
      )}
    </section>
  );
}

/** User ids that a message names as its receivers, as far as the panel shows them. */
const shownReceivers = 20;

export interface MessageDetailsProps {
  readonly channel: ChannelAddress;
  readonly message: Message;
}

function MessageDetails({ channel, message }: MessageDetailsProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const { mayChange, mayListReaders, mayListCopies } = usePermissions(message);
  const isRecalled = message.state === MessageState.RECALLED;
  const { tagKey, streamNo, expire, header, subscribers } = message;
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
        <PayloadView payload={message.payload} />
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
          ...(isRecalled ? [] : ([[t('message.size'), format.bytes(message.payload.length)]] as const)),
          ...(expire === 0
            ? []
            : ([
                [t('message.expires'), t('message.expiresAfter', { duration: format.duration(expire * 1000) })],
              ] as const)),
          ...(header?.redDot ? ([[t('message.flags'), <Badge key="red">{t('message.redDot')}</Badge>]] as const) : []),
          ...(tagKey === '' ? [] : ([[t('message.tag'), tagKey]] as const)),
          ...(streamNo === '' ? [] : ([[t('message.stream'), streamNo]] as const)),
          ...(subscribers.length === 0
            ? []
            : ([
                [
                  t('message.receivers', { count: subscribers.length }),
                  `${subscribers.slice(0, shownReceivers).join(', ')}${subscribers.length > shownReceivers ? ' …' : ''}`,
                ],
              ] as const)),
          [t('message.id'), <code key="id">{String(message.messageId)}</code>],
          [t('message.key'), <code key="key">{message.clientMsgNo}</code>],
        ]}
      />
      {mayListReaders && !isRecalled ? <Readers channel={channel} message={message} /> : null}
      {mayListCopies && message.state !== undefined ? (
        <Copies key={`${message.state} ${message.revision}`} channel={channel} message={message} />
      ) : null}
      {mayChange && !isRecalled ? (
        <div className="row">
          <EditButton channel={channel} message={message} />
          <RecallButton channel={channel} message={message} />
        </div>
      ) : null}
    </>
  );
}

/** What the caller may do with a message; a user changes its own only. */
function usePermissions({ fromUid }: Message) {
  const session = useSession();
  const caller = session.state === 'signedIn' ? session.info.caller : undefined;
  const isAdmin = hasScope(session, 'admin');
  const isOthers = caller?.isUser === true && caller.name !== fromUid;
  return {
    mayChange: hasScope(session, 'send') && !isOthers,
    mayListReaders: hasScope(session, 'read') && (!isOthers || isAdmin),
    mayListCopies: isAdmin,
  };
}
