import { RecallState } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Badge } from '../ui/display.tsx';
import { isScheduled, type Pace, stateName, stateTone } from './batch-state.ts';
import { batchTexts } from './texts.ts';

/** Messages per second. */
export function PaceText({ pace }: { readonly pace: Pace }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  return t('perSecond', { rate: format.number(Math.round(pace.perSecond)) });
}

/** The state in a word, and for a scheduled batch its time. */
export function StateBadge({ batch, now }: { readonly batch: Batch; readonly now: number }) {
  const t = useTexts(batchTexts);
  const format = useFormat();
  if (batch.nextAt !== undefined && isScheduled(batch, now))
    return (
      <>
        <Badge>{t('scheduled')}</Badge>
        <div className="muted small nowrap">{format.time(batch.nextAt)}</div>
      </>
    );
  return (
    <>
      <Badge tone={stateTone(batch)}>{t(`states.${stateName(batch)}`)}</Badge>
      {batch.recallState === undefined ? null : (
        <>
          {' '}
          <Badge tone="warning">
            {t(batch.recallState === RecallState.RUNNING ? 'recall.running' : 'recall.completed')}
          </Badge>
        </>
      )}
    </>
  );
}
