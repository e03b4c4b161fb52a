import { useId } from 'react';
import type { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { channelTypeName, channelTypes } from '../i18n/channel-types.ts';
import { usePreferences } from '../i18n/preferences.ts';

const types = channelTypes as readonly ChannelType[];

export interface ChannelTypeChecksProps {
  readonly legend: string;
  readonly hint: string;
  readonly value: readonly ChannelType[];
  readonly onChange: (value: readonly ChannelType[]) => void;
}

/** Chooses some of the channel types. */
export function ChannelTypeChecks({ legend, hint, value, onChange }: ChannelTypeChecksProps) {
  const { language } = usePreferences();
  const hintId = useId();
  return (
    <fieldset aria-describedby={hintId}>
      <legend>{legend}</legend>
      <div className="row">
        {types.map((type) => (
          <label key={type} className="check">
            <input
              type="checkbox"
              checked={value.includes(type)}
              onChange={({ target }) =>
                onChange(types.filter((each) => (each === type ? target.checked : value.includes(each))))
              }
            />
            {channelTypeName(type, language)}
          </label>
        ))}
      </div>
      <p className="hint" id={hintId}>
        {hint}
      </p>
    </fieldset>
  );
}
