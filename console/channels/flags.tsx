import { useMutation, useQuery } from '@connectrpc/connect-query';
import { type FormEvent, useState } from 'react';
import { type Channel, ChannelService } from '../../gen/client/sendbatch/v1/channel_service_pb.ts';
import { ChannelType } from '../../src/client/index.ts';
import { callErrorOf } from '../api/errors.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { type ChannelAddress, isPair } from './channel.ts';
import { Lists } from './lists.tsx';
import { channelTexts } from './texts.ts';

const flagNames = ['large', 'ban', 'disband', 'sendBan', 'allowStranger'] as const;
type FlagName = (typeof flagNames)[number];
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
  const put = useMutation(ChannelService.method.putChannel);
  const isSet = (name: FlagName) => changed[name] ?? stored?.[name] === 1;
  const shown = channel.channelType === ChannelType.PERSON ? flagsOfUsers : flagNames;

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    if (put.isPending) return;
    const flags = Object.fromEntries(flagNames.map((name) => [name, isSet(name) ? 1 : 0]));
    await put.mutateAsync({ ...channel, ...flags });
    setChanged({});
    onSaved();
  }

  return (
    // The error is shown above the button.
    <form className="card stack" onSubmit={(event) => void submit(event).catch(() => {})}>
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
      {put.error === null ? null : <ErrorNotice error={put.error} />}
      <div className="row">
        <button type="submit" className="button primary" aria-disabled={put.isPending}>
          {put.isPending ? t('flags.saving') : t('flags.save')}
        </button>
        <span role="status">{put.isSuccess ? t('flags.saved') : ''}</span>
      </div>
    </form>
  );
}
