import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import { useState } from 'react';
import { type Key, KeyService, KeyState } from '../../gen/client/sendbatch/v1/key_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useSession } from '../shell/use-session.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { Badge, TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import type { Tone } from '../ui/tone.ts';
import { CreateKey } from './create-key.tsx';
import { keyTexts } from './texts.ts';

const pageSize = 50;

/** The API keys: created, shown once, revoked. */
export default function KeysPage() {
  const t = useTexts(keyTexts);
  const session = useSession();
  const [isCreating, setCreating] = useState(false);
  const [revoking, setRevoking] = useState<Key>();
  const list = useInfiniteQuery(
    KeyService.method.listKeys,
    { pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf },
  );
  const refetch = () => void list.refetch();
  const revoke = useMutation(KeyService.method.revokeKey, {
    onSuccess: () => {
      setRevoking(undefined);
      refetch();
    },
  });
  const ask = (key: Key) => {
    // Its outcome stays on the page until the next one is asked about.
    revoke.reset();
    setRevoking(key);
  };
  const keys = list.data?.pages.flatMap((page) => page.keys) ?? [];
  const isOpen = session.state === 'signedIn' && !session.hasCredential;
  return (
    <Page
      title={t('title')}
      lead={t('lead')}
      actions={
        <button type="button" className="button primary" onClick={() => setCreating(true)}>
          {t('create')}
        </button>
      }
    >
      {isOpen ? <Notice>{t('open')}</Notice> : null}
      {revoke.data === undefined ? null : (
        <Notice kind="success">
          {t('revoke.done', { name: revoke.data.key?.name ?? '', count: revoke.data.cancelledBatches })}
        </Notice>
      )}
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={refetch} />}
      {list.isPending ? <Loading /> : null}
      {list.data !== undefined && keys.length === 0 ? (
        <Empty title={t('none')}>
          <p>{t('noneText')}</p>
        </Empty>
      ) : null}
      {keys.length === 0 ? null : <KeyTable keys={keys} onRevoke={ask} />}
      <MoreButton {...list} />
      <CreateKey isOpen={isCreating} onClose={() => setCreating(false)} onCreated={refetch} />
      <ConfirmDialog
        title={t('revoke.title', { name: revoking?.name ?? '' })}
        isOpen={revoking !== undefined}
        onClose={() => setRevoking(undefined)}
        confirm={t('revoke.confirm')}
        isDanger
        action={revoke}
        onConfirm={() => revoke.mutate({ keyId: revoking?.keyId ?? '' })}
      >
        <p>{t('revoke.text')}</p>
      </ConfirmDialog>
    </Page>
  );
}

const states: Readonly<Record<KeyState, readonly ['active' | 'expired' | 'revoked', Tone]>> = {
  [KeyState.UNSPECIFIED]: ['active', 'neutral'],
  [KeyState.ACTIVE]: ['active', 'success'],
  [KeyState.EXPIRED]: ['expired', 'neutral'],
  [KeyState.REVOKED]: ['revoked', 'danger'],
};
const scopeNames = ['send', 'read', 'admin', 'metrics'] as const;

function KeyTable({ keys, onRevoke }: { readonly keys: readonly Key[]; readonly onRevoke: (key: Key) => void }) {
  const t = useTexts(keyTexts);
  const format = useFormat();
  const columns = ['name', 'state', 'scopes', 'senders', 'created', 'actions'] as const;
  return (
    <TableScroll label={t('table')}>
      <table>
        <thead>
          <tr>
            {columns.map((name) => (
              <th key={name} scope="col">
                {name === 'actions' ? (
                  <span className="visually-hidden">{t('columns.actions')}</span>
                ) : (
                  t(`columns.${name}`)
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {keys.map((key) => {
            const [state, tone] = states[key.state] ?? states[KeyState.UNSPECIFIED];
            const scopes = scopeNames.filter((scope) => key.scopes.includes(scope));
            return (
              <tr key={key.keyId}>
                <th scope="row">
                  {key.name}
                  <div className="muted small mono">{key.keyId}</div>
                </th>
                <td>
                  <Badge tone={tone}>{t(`states.${state}`)}</Badge>
                  {key.expiresAt === undefined || key.revokedAt !== undefined ? null : (
                    <div className="muted small nowrap">
                      {t(state === 'expired' ? 'expired' : 'expires')} <Time value={key.expiresAt} />
                    </div>
                  )}
                  {key.revokedAt === undefined ? null : (
                    <div className="muted small nowrap">
                      <Time value={key.revokedAt} />
                      {key.revokedBy === '' ? null : <div>{t('by', { caller: key.revokedBy })}</div>}
                    </div>
                  )}
                </td>
                <td>{scopes.map((scope) => t(`scopes.${scope}`)).join(', ')}</td>
                <td className="breakable">
                  {key.senders.length === 0 ? <span className="muted">{t('anySender')}</span> : key.senders.join(', ')}
                  {key.ratePerSecond === 0 ? null : (
                    <div className="muted small">{t('rate', { rate: format.number(key.ratePerSecond) })}</div>
                  )}
                </td>
                <td className="nowrap">
                  <Time value={key.createdAt} />
                  {key.createdBy === '' ? null : (
                    <div className="muted small">{t('by', { caller: key.createdBy })}</div>
                  )}
                </td>
                <td>
                  {key.state === KeyState.REVOKED ? null : (
                    <button
                      type="button"
                      className="button small danger"
                      aria-label={t('revoke.actionOf', { name: key.name })}
                      onClick={() => onRevoke(key)}
                    >
                      {t('revoke.action')}
                    </button>
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </TableScroll>
  );
}
