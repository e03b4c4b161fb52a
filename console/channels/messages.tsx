import { createClient } from '@connectrpc/connect';
import { useVirtualizer } from '@tanstack/react-virtual';
import {
  memo,
  useCallback,
  useEffect,
  useEffectEvent,
  useLayoutEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from 'react';
import { Link } from 'wouter';
import type { Message } from '../../src/client/index.ts';
import { ChannelType, MessageService, MessageState } from '../../src/client/index.ts';
import { sendbatch, transport } from '../api/client.ts';
import { type Format, useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useHasScope, useSession } from '../shell/use-session.ts';
import { useQueryParams } from '../ui/address.ts';
import { Badge } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import type { Tone } from '../ui/tone.ts';
import { type ChannelAddress, isPair } from './channel.ts';
import { ChannelLog, type LogState } from './channel-log.ts';
import { JumpForms } from './jump.tsx';
import { MessagePanel } from './message-panel.tsx';
import { previewOf } from './payload.ts';
import { SendForm } from './send-form.tsx';
import { channelTexts } from './texts.ts';

const rpc = createClient(MessageService, transport);
/** The height of a row in px; channels.css has the same. */
const rowHeight = 56;
/** Rows in the list. Browsers limit the height of an element to about 17 million px. */
const maxRows = 200_000;
/** How far from its end the list still follows new messages, in px. */
const nearEnd = rowHeight;

/** The messages of a channel: live, and back to the first one. */
export function Messages({ channel }: { readonly channel: ChannelAddress }) {
  const session = useSession();
  const isUser = session.state === 'signedIn' && session.info.caller?.isUser === true;
  // A user's own credential says which side it is.
  if (channel.channelType === ChannelType.PERSON && !isPair(channel) && !isUser)
    return <OnePerson uid={channel.channelId} />;
  return <MessagesOf channel={channel} />;
}

/** The address of a user, whose lists it has, names no conversation. */
function OnePerson({ uid }: { readonly uid: string }) {
  const t = useTexts(channelTexts);
  return (
    <Empty title={t('messages.onePerson', { uid })}>
      <p>{t('messages.onePersonText', { uid })}</p>
      <Link href={`/channels?uid=${encodeURIComponent(uid)}`} className="button">
        {t('find.ofUser')}
      </Link>
    </Empty>
  );
}

function MessagesOf({ channel }: { readonly channel: ChannelAddress }) {
  const { channelType, channelId } = channel;
  const [log, setLog] = useState<ChannelLog>();
  useEffect(() => {
    const opened = new ChannelLog({ rpc, sendbatch, channelType, channelId });
    setLog(opened);
    void opened.open();
    return () => opened.close();
  }, [channelType, channelId]);
  return log === undefined ? <Loading /> : <LogView key={`${channelType}/${channelId}`} log={log} channel={channel} />;
}

interface LogViewProps {
  readonly log: ChannelLog;
  readonly channel: ChannelAddress;
}

function LogView({ log, channel }: LogViewProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const maySend = useHasScope('send');
  const state = useSyncExternalStore(log.subscribe, log.get);
  const [params, setParams] = useQueryParams();
  const selected = seqOf(params.get('seq'));
  const heading = useRef<HTMLHeadingElement>(null);
  const select = useCallback((seq: number) => setParams({ seq: String(seq) }, { push: true }), [setParams]);
  const open = useCallback(
    (seq: number, isByKeyboard: boolean) => {
      select(seq);
      requestAnimationFrame(() => showPanel(heading.current, isByKeyboard));
    },
    [select],
  );
  const close = () => {
    document.querySelector<HTMLElement>('.message-row[aria-current]')?.focus();
    setParams({ seq: '' });
  };
  const { firstSeq, lastSeq, isOpen } = state;
  const reopen = () => void log.open();
  if (!isOpen) return state.error === undefined ? <Loading /> : <ErrorNotice error={state.error} onRetry={reopen} />;
  return (
    <>
      <div className="row spread">
        <div className="row">
          <TailBadge tail={state.tail} />
          <span className="muted">
            {t('messages.count', { count: lastSeq })}
            {lastSeq > 0 && firstSeq > 1
              ? ` (${t('messages.range', { first: format.number(firstSeq), last: format.number(lastSeq) })})`
              : ''}
          </span>
        </div>
      </div>
      <JumpForms channel={channel} rpc={rpc} firstSeq={firstSeq} lastSeq={lastSeq} onJump={select} />
      {state.error === undefined ? null : (
        <ErrorNotice error={state.error} onRetry={state.tail === 'ended' ? reopen : () => log.retry()} />
      )}
      {lastSeq === 0 ? (
        <Empty title={t('messages.empty')}>
          <p>{t('messages.emptyText')}</p>
        </Empty>
      ) : (
        <div className="messages">
          <MessageList log={log} state={state} selected={selected} onSelect={open} />
          <MessagePanel
            heading={heading}
            channel={channel}
            message={selected === undefined ? undefined : log.at(selected)}
            seq={selected}
            firstSeq={firstSeq}
            lastSeq={lastSeq}
            onClose={close}
          />
        </div>
      )}
      {maySend ? <SendForm channel={channel} rpc={rpc} /> : null}
    </>
  );
}

/** Moves to the panel of a message: the focus of a keyboard user, and the page where it is below the list. */
function showPanel(heading: HTMLHeadingElement | null, isByKeyboard: boolean): void {
  if (isByKeyboard) heading?.focus({ preventScroll: true });
  const panel = heading?.closest('section');
  if (panel && panel.getBoundingClientRect().top > window.innerHeight / 2) panel.scrollIntoView();
}

function seqOf(text: string | null): number | undefined {
  return text !== null && /^[1-9]\d{0,15}$/.test(text) ? Number(text) : undefined;
}

const tailTones: Readonly<Record<LogState['tail'], Tone>> = {
  starting: 'neutral',
  live: 'success',
  reconnecting: 'warning',
  ended: 'danger',
};

function TailBadge({ tail }: { readonly tail: LogState['tail'] }) {
  const t = useTexts(channelTexts);
  return (
    <span role="status">
      <Badge tone={tailTones[tail]}>{t(`messages.${tail}`)}</Badge>
    </span>
  );
}

interface MessageListProps {
  readonly log: ChannelLog;
  readonly state: LogState;
  readonly selected: number | undefined;
  readonly onSelect: (seq: number, isByKeyboard: boolean) => void;
}

function MessageList({ log, state, selected, onSelect }: MessageListProps) {
  const t = useTexts(channelTexts);
  const format = useFormat();
  const scroller = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  const { firstSeq, lastSeq, attempt } = state;
  const first = windowStart(firstSeq, lastSeq, selected);
  const count = lastSeq - first + 1;
  const rows = useVirtualizer({
    count,
    getScrollElement: () => scroller.current,
    estimateSize: () => rowHeight,
    overscan: 12,
  });
  const items = rows.getVirtualItems();
  const firstShown = first + (items[0]?.index ?? 0);
  const lastShown = first + (items.at(-1)?.index ?? 0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt reads again.
  useEffect(() => {
    if (items.length > 0) log.need(firstShown, lastShown);
  }, [log, items.length, firstShown, lastShown, attempt]);
  // The end is followed while it is seen, also when new rows come.
  useLayoutEffect(() => {
    if (isAtEnd.current && count > 0) rows.scrollToIndex(count - 1, { align: 'end' });
  }, [count, rows]);
  const reveal = useEffectEvent((seq: number) => {
    const element = scroller.current;
    if (element === null || seq < first || seq >= first + count) return;
    const top = (seq - first) * rowHeight;
    if (top >= element.scrollTop && top + rowHeight <= element.scrollTop + element.clientHeight) return;
    isAtEnd.current = false;
    rows.scrollToIndex(seq - first, { align: 'center' });
  });
  useLayoutEffect(() => {
    if (selected !== undefined) reveal(selected);
  }, [selected]);
  return (
    <section
      className="message-list"
      ref={scroller}
      aria-label={t('messages.label')}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to be reachable by keyboard (WCAG 2.1.1).
      tabIndex={0}
      onScroll={({ currentTarget: { scrollTop, clientHeight, scrollHeight } }) => {
        isAtEnd.current = scrollTop + clientHeight >= scrollHeight - nearEnd;
      }}
    >
      <ul style={{ height: rows.getTotalSize() }}>
        {items.map(({ index, start }) => {
          const seq = first + index;
          return (
            <li key={seq} style={{ translate: `0 ${start}px` }} aria-setsize={count} aria-posinset={index + 1}>
              <MessageRow
                seq={seq}
                message={log.at(seq)}
                isSelected={seq === selected}
                onSelect={onSelect}
                format={format}
              />
            </li>
          );
        })}
      </ul>
    </section>
  );
}

/** The first sequence of the list: all that is kept, or the part around the chosen message. */
function windowStart(firstSeq: number, lastSeq: number, selected: number | undefined): number {
  const first = Math.max(firstSeq, 1);
  if (lastSeq - first < maxRows) return first;
  const newest = lastSeq - maxRows + 1;
  if (selected === undefined || selected >= newest) return newest;
  // In steps, so that the next choice nearby does not move the list.
  const step = maxRows / 4;
  return Math.max(first, Math.floor((selected - maxRows / 2) / step) * step);
}

interface MessageRowProps {
  readonly seq: number;
  readonly message: Message | null | undefined;
  readonly isSelected: boolean;
  readonly onSelect: (seq: number, isByKeyboard: boolean) => void;
  readonly format: Format;
}

const MessageRow = memo(function MessageRow({ seq, message, isSelected, onSelect, format }: MessageRowProps) {
  const t = useTexts(channelTexts);
  if (message === null || message === undefined)
    return (
      <div className="message-row muted">
        <span className="message-head">
          <span className="message-seq">{format.number(seq)}</span>
        </span>
        <span className="message-text">{message === null ? t('messages.gone') : t('messages.loading')}</span>
      </div>
    );
  const isRecalled = message.state === MessageState.RECALLED;
  return (
    <button
      type="button"
      className="message-row"
      aria-current={isSelected ? 'true' : undefined}
      // A click by keyboard has no count.
      onClick={({ detail }) => onSelect(seq, detail === 0)}
    >
      <span className="message-head">
        <span className="message-seq">{format.number(seq)}</span>
        <span className="message-sender">{message.fromUid}</span>
        {message.state === MessageState.EDITED ? <Badge>{t('messages.edited')}</Badge> : null}
        <span className="message-time">{message.timestamp === undefined ? '' : format.time(message.timestamp)}</span>
      </span>
      <span className={isRecalled ? 'message-text muted' : 'message-text'}>
        {isRecalled ? t('messages.recalled') : previewOf(message.payload)}
      </span>
    </button>
  );
});
