import { useMutation, useQuery } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import { type Channel, ChannelService } from '../../gen/client/sendbatch/v1/channel_service_pb.ts';
import { ChannelType } from '../../src/client/index.ts';
import { callErrorOf } from '../api/errors.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ConfirmDialog } from '../ui/confirm-dialog.tsx';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { type ChannelAddress, isPair } from './channel.ts';
import { Lists } from './lists.tsx';
import { channelTexts } from './texts.ts';

const flagNames = ['large', 'ban', 'disband', 'sendBan', 'allowStranger'] as const;
type FlagName = (typeof flagNames)[number];
/** Those that stop people from sending: they are asked about before they are set. */
const blockingFlags: readonly FlagName[] = ['ban', 'disband', 'sendBan'];
/** What a user's own channel can have. */
const flagsOfUsers: readonly FlagName[] = ['sendBan', 'allowStranger'];

/** The flags of a channel; saving creates it when it does not exist. */
export function Flags({ channel }: { readonly channel: ChannelAddress }) {
  const { data, error, isPending, refetch } = useQuery(ChannelService.method.getChannel, channel, {
    enabled: !isPair(channel),
  });
  // The two of a conversation have settings each.
  if (isPair(channel)) return <Lists channel={channel} />;
  if (isPending) return <Loading />;
  const isMissing = error !== null && callErrorOf(error).reason === 'CHANNEL_NOT_EXIST';
  if (error !== null && !isMissing) return <ErrorNotice error={error} onRetry={() => void refetch()} />;
  return <FlagsForm channel={channel} stored={data?.channel} onSaved={() => void refetch()} />;
}

interface FlagsFormProps {
  readonly channel: ChannelAddress;
  /** Undefined: the channel does not exist. */
  readonly stored: Channel | undefined;
  readonly onSaved: () => void;
}

function FlagsForm({ channel, stored, onSaved }: FlagsFormProps) {
  const t = useTexts(channelTexts);
  const [changed, setChanged] = useState<Partial<Record<FlagName, boolean>>>({});
  const [isAsking, setAsking] = useState(false);
  const put = useMutation(ChannelService.method.putChannel, {
    onSuccess: () => {
      setAsking(false);
      setChanged({});
      onSaved();
    },
  });
  const isSet = (name: FlagName) => changed[name] ?? stored?.[name] === 1;
  const shown = channel.channelType === ChannelType.PERSON ? flagsOfUsers : flagNames;

  const blocking = blockingFlags.filter((name) => isSet(name) && stored?.[name] !== 1);

  const save = () => {
    const flags = Object.fromEntries(flagNames.map((name) => [name, isSet(name) ? 1 : 0]));
    put.mutate({ ...channel, ...flags });
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (put.isPending) return;
    if (blocking.length === 0) save();
    else setAsking(true);
  };

  return (
    <form className="card stack" onSubmit={submit}>
      {stored === undefined ? (
        <Notice>
          <p className="notice-title">{t('flags.missing')}</p>
          <p>{t('flags.missingText')}</p>
        </Notice>
      ) : null}
      {shown.map((name) => (
        <div key={name}>
          <label className="check">
            <input
              type="checkbox"
              checked={isSet(name)}
              aria-describedby={`flag-${name}`}
              onChange={({ target }) => {
                put.reset();
                setChanged({ ...changed, [name]: target.checked });
              }}
            />
            {t(`flags.${name}`)}
          </label>
          <p className="hint check-hint" id={`flag-${name}`}>
            {t(`flags.${name}Hint`)}
          </p>
        </div>
      ))}
      {put.error === null || isAsking ? null : <ErrorNotice error={put.error} />}
      <div className="row">
        <button type="submit" className="button primary" aria-disabled={put.isPending}>
          {put.isPending ? t('flags.saving') : t('flags.save')}
        </button>
        <span role="status">{put.isSuccess ? t('flags.saved') : ''}</span>
      </div>
      <ConfirmDialog
        title={t('flags.ask', { channel: channel.channelId })}
        isOpen={isAsking}
        onClose={() => setAsking(false)}
        confirm={t('flags.askConfirm')}
        isDanger
        action={put}
        onConfirm={save}
      >
        <ul className="plain">
          {blocking.map((name) => (
            <li key={name}>
              <strong>{t(`flags.${name}`)}</strong>: {t(`flags.${name}Hint`)}
            </li>
          ))}
        </ul>
      </ConfirmDialog>
    </form>
  );
}
