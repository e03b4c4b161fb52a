import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import { Link } from 'wouter';
import { ChannelService } from '../../gen/client/sendbatch/v1/channel_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf, useQueryParams } from '../ui/address.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { nextPageOf } from '../ui/more-button.tsx';
import { uiTexts } from '../ui/texts.ts';
import { type ChannelAddress, isPair } from './channel.ts';
import { channelTexts } from './texts.ts';

const listKinds = ['members', 'denylist', 'allowlist'] as const;
type ListKind = (typeof listKinds)[number];
const pageSize = 200;

/** The members of a channel, its denylist and its allowlist. */
export function Lists({ channel }: { readonly channel: ChannelAddress }) {
  const t = useTexts(channelTexts);
  const [params, setParams] = useQueryParams();
  const kind = listKinds.find((each) => each === params.get('list')) ?? 'members';
  if (isPair(channel))
    return (
      <Empty title={t('lists.pair')}>
        <p className="row">
          {channel.channelId.split('@').map((uid) => (
            <Link key={uid} href={`${pathOf('channels', channel.channelType, uid)}/lists`}>
              {uid}
            </Link>
          ))}
        </p>
      </Empty>
    );
  return (
    <>
      <div className="row end">
        <Field label={t('lists.kind')} hint={t(`lists.hints.${kind}`)}>
          {(props) => (
            <select {...props} value={kind} onChange={({ target }) => setParams({ list: target.value })}>
              {listKinds.map((each) => (
                <option key={each} value={each}>
                  {t(`lists.kinds.${each}`)}
                </option>
              ))}
            </select>
          )}
        </Field>
      </div>
      <OneList key={kind} channel={channel} kind={kind} />
    </>
  );
}

interface OneListProps {
  readonly channel: ChannelAddress;
  readonly kind: ListKind;
}

const listMethods = {
  members: ChannelService.method.listMembers,
  denylist: ChannelService.method.listDenylist,
  allowlist: ChannelService.method.listAllowlist,
} as const;

function OneList({ channel, kind }: OneListProps) {
  const t = useTexts(channelTexts);
  const ui = useTexts(uiTexts);
  const [status, setStatus] = useState('');
  // The three methods have requests and answers of the same shape.
  const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useInfiniteQuery(
    listMethods[kind] as typeof ChannelService.method.listMembers,
    { ...channel, pageSize, pageToken: '' },
    {
      pageParamKey: 'pageToken',
      getNextPageParam: nextPageOf,
    },
  );
  const removeMember = useMutation(ChannelService.method.removeMembers);
  const removeDenied = useMutation(ChannelService.method.removeFromDenylist);
  const removeAllowed = useMutation(ChannelService.method.removeFromAllowlist);
  const removals = { members: removeMember, denylist: removeDenied, allowlist: removeAllowed };
  const entries = data?.pages.flatMap((page) => page.entries) ?? [];

  async function remove(uid: string): Promise<void> {
    if (kind === 'members') await removeMember.mutateAsync({ ...channel, subscribers: [uid] });
    else if (kind === 'denylist') await removeDenied.mutateAsync({ ...channel, uids: [uid] });
    else await removeAllowed.mutateAsync({ ...channel, uids: [uid] });
    setStatus(t('lists.removed', { uid }));
    await refetch();
  }

  return (
    <>
      <AddForm
        channel={channel}
        kind={kind}
        onAdded={(count) => {
          setStatus(t('lists.added', { count }));
          void refetch();
        }}
      />
      <p role="status" className={status === '' ? 'visually-hidden' : 'muted'}>
        {status}
      </p>
      {removals[kind].error === null ? null : <ErrorNotice error={removals[kind].error} />}
      {error !== null ? <ErrorNotice error={error} onRetry={() => void refetch()} /> : null}
      {isPending ? <Loading /> : null}
      {data !== undefined && entries.length === 0 ? <Empty title={t('lists.none')} /> : null}
      {entries.length === 0 ? null : (
        <>
          <TableScroll label={t('lists.table')}>
            <table>
              <thead>
                <tr>
                  <th scope="col">{t('lists.uid')}</th>
                  <th scope="col">{t('lists.since')}</th>
                  <th scope="col">
                    <span className="visually-hidden">{t('lists.remove')}</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {entries.map(({ uid, createdAt }) => (
                  <tr key={uid}>
                    <th scope="row" className="breakable">
                      {uid}
                    </th>
                    <td className="nowrap">
                      <Time value={createdAt === 0n ? undefined : new Date(Number(createdAt))} />
                    </td>
                    <td className="number">
                      <button
                        type="button"
                        className="button small"
                        aria-label={t('lists.removeOf', { uid })}
                        // The error is shown above the table.
                        onClick={() => void remove(uid).catch(() => {})}
                      >
                        {t('lists.remove')}
                      </button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </TableScroll>
          <div className="row">
            <span className="muted">{t('lists.shown', { count: entries.length })}</span>
            {hasNextPage ? (
              <button
                type="button"
                className="button"
                disabled={isFetchingNextPage}
                onClick={() => void fetchNextPage()}
              >
                {isFetchingNextPage ? ui('loading') : ui('more')}
              </button>
            ) : null}
            <ClearButton
              channel={channel}
              kind={kind}
              onCleared={() => {
                setStatus(t('lists.cleared'));
                void refetch();
              }}
            />
          </div>
        </>
      )}
    </>
  );
}

const clearMethods = {
  members: ChannelService.method.removeAllMembers,
  denylist: ChannelService.method.clearDenylist,
  allowlist: ChannelService.method.clearAllowlist,
} as const;

/** Removes every entry, after a question that says what follows from it. */
function ClearButton({ channel, kind, onCleared }: OneListProps & { readonly onCleared: () => void }) {
  const t = useTexts(channelTexts);
  const [isOpen, setOpen] = useState(false);
  // The three methods have requests of the same shape.
  const clear = useMutation(clearMethods[kind] as typeof ChannelService.method.removeAllMembers, {
    onSuccess: () => {
      setOpen(false);
      onCleared();
    },
  });
  return (
    <>
      <button type="button" className="button danger" onClick={() => setOpen(true)}>
        {t('lists.clear')}
      </button>
      <ConfirmDialog
        title={t(`lists.clearTitles.${kind}`, { channel: channel.channelId })}
        isOpen={isOpen}
        onClose={() => setOpen(false)}
        confirm={t('lists.clearConfirm')}
        isDanger
        action={clear}
        onConfirm={() => clear.mutate(channel)}
      >
        <p>{t(`lists.clearTexts.${kind}`)}</p>
      </ConfirmDialog>
    </>
  );
}

function AddForm({ channel, kind, onAdded }: OneListProps & { readonly onAdded: (count: number) => void }) {
  const t = useTexts(channelTexts);
  const [text, setText] = useState('');
  const [isMissing, setMissing] = useState(false);
  const addMembers = useMutation(ChannelService.method.addMembers);
  const addDenied = useMutation(ChannelService.method.addToDenylist);
  const addAllowed = useMutation(ChannelService.method.addToAllowlist);
  const additions = { members: addMembers, denylist: addDenied, allowlist: addAllowed };
  const { error, isPending } = additions[kind];

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    const uids = [...new Set(text.split(/[\s,;，；]+/).filter(Boolean))];
    setMissing(uids.length === 0);
    if (uids.length === 0 || isPending) return;
    if (kind === 'members') await addMembers.mutateAsync({ ...channel, subscribers: uids });
    else if (kind === 'denylist') await addDenied.mutateAsync({ ...channel, uids });
    else await addAllowed.mutateAsync({ ...channel, uids });
    setText('');
    onAdded(uids.length);
  }

  return (
    // The error is shown below the field.
    <form className="stack" onSubmit={(event) => void submit(event).catch(() => {})}>
      <Field label={t('lists.add')} hint={t('lists.addHint')} error={isMissing ? t('lists.nothing') : undefined}>
        {(props) => (
          <textarea
            {...props}
            className="short"
            value={text}
            spellCheck={false}
            onChange={({ target }) => setText(target.value)}
          />
        )}
      </Field>
      {error === null ? null : <ErrorNotice error={error} />}
      <div>
        <button type="submit" className="button" aria-disabled={isPending}>
          {t('lists.addSubmit')}
        </button>
      </div>
    </form>
  );
}
