import { useInfiniteQuery, useMutation } from '@connectrpc/connect-query';
import {
  type WebhookDelivery,
  WebhookDeliveryState,
  WebhookService,
} from '../../gen/client/sendbatch/v1/webhook_service_pb.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Badge, TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading, Notice } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import type { Tone } from '../ui/tone.ts';
import { useChosen } from '../ui/use-chosen.ts';
import { webhookTexts } from './texts.ts';

const pageSize = 50;
const refreshMs = 5_000;
/** Deliveries that one call may queue. */
const maxRedelivered = 1_000;

export interface DeliveriesProps {
  readonly name: string;
  readonly onRedelivered: () => void;
}

/** The failed deliveries of a webhook; parked ones can be delivered again. */
export function Deliveries({ name, onRedelivered }: DeliveriesProps) {
  const t = useTexts(webhookTexts);
  const list = useInfiniteQuery(
    WebhookService.method.listWebhookDeliveries,
    { name, pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf, refetchInterval: refreshMs },
  );
  const deliveries = list.data?.pages.flatMap((page) => page.deliveries) ?? [];
  const parked = deliveries.filter(({ state }) => state === WebhookDeliveryState.PARKED).map((each) => each.deliveryId);
  const chosen = useChosen(parked, maxRedelivered);
  const redeliver = useMutation(WebhookService.method.redeliverWebhook, {
    onSuccess: () => {
      chosen.clear();
      void list.refetch();
      onRedelivered();
    },
  });
  return (
    <section className="stack" aria-labelledby="deliveries">
      <div>
        <h2 id="deliveries">{t('deliveries.title')}</h2>
        <p className="muted">{t('deliveries.lead')}</p>
      </div>
      {redeliver.data === undefined ? null : (
        <Notice kind="success">{t('deliveries.queued', { count: redeliver.data.queued })}</Notice>
      )}
      {redeliver.error === null ? null : <ErrorNotice error={redeliver.error} />}
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending ? <Loading /> : null}
      {list.data !== undefined && deliveries.length === 0 ? <Empty title={t('deliveries.none')} /> : null}
      {parked.length === 0 ? null : (
        <div className="row">
          <button
            type="button"
            className="button"
            disabled={chosen.ids.length === 0 || redeliver.isPending}
            onClick={() => redeliver.mutate({ name, deliveryIds: [...chosen.ids] })}
          >
            {t('deliveries.redeliver')}
          </button>
          <button
            type="button"
            className="button"
            disabled={redeliver.isPending}
            onClick={() => redeliver.mutate({ name, deliveryIds: [] })}
          >
            {t('deliveries.redeliverAll')}
          </button>
        </div>
      )}
      {deliveries.length === 0 ? null : (
        <TableScroll label={t('deliveries.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">
                  {parked.length === 0 ? (
                    <span className="visually-hidden">{t('deliveries.selectAll')}</span>
                  ) : (
                    <input
                      type="checkbox"
                      aria-label={t('deliveries.selectAll')}
                      checked={chosen.ids.length === parked.length}
                      onChange={({ target }) => chosen.choose(parked, target.checked)}
                    />
                  )}
                </th>
                <th scope="col">{t('deliveries.id')}</th>
                <th scope="col">{t('deliveries.state')}</th>
                <th scope="col">{t('deliveries.messages')}</th>
                <th scope="col" className="number">
                  {t('deliveries.attempts')}
                </th>
                <th scope="col">{t('deliveries.answer')}</th>
              </tr>
            </thead>
            <tbody>
              {deliveries.map((delivery) => (
                <Row
                  key={delivery.deliveryId.toString()}
                  delivery={delivery}
                  isChosen={chosen.has(delivery.deliveryId)}
                  onChoose={(isChosen) => chosen.choose([delivery.deliveryId], isChosen)}
                />
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      <MoreButton {...list} />
    </section>
  );
}

const states: Readonly<Partial<Record<WebhookDeliveryState, readonly ['retrying' | 'parked' | 'queued', Tone]>>> = {
  [WebhookDeliveryState.RETRYING]: ['retrying', 'warning'],
  [WebhookDeliveryState.PARKED]: ['parked', 'danger'],
  [WebhookDeliveryState.QUEUED]: ['queued', 'info'],
};
/** Channels of a delivery that its row names. */
const shownRanges = 3;

interface RowProps {
  readonly delivery: WebhookDelivery;
  readonly isChosen: boolean;
  readonly onChoose: (isChosen: boolean) => void;
}

function Row({ delivery, isChosen, onChoose }: RowProps) {
  const t = useTexts(webhookTexts);
  const format = useFormat();
  const { deliveryId, state, ranges, attempts, lastStatus, lastError, createdAt, nextAttemptAt } = delivery;
  const [name, tone] = states[state] ?? [];
  const count = ranges.reduce((sum, { firstSeq, lastSeq }) => sum + lastSeq - firstSeq + 1n, 0n);
  const id = deliveryId.toString();
  return (
    <tr>
      <td>
        {state === WebhookDeliveryState.PARKED ? (
          <input
            type="checkbox"
            aria-label={t('deliveries.select', { id })}
            checked={isChosen}
            onChange={({ target }) => onChoose(target.checked)}
          />
        ) : null}
      </td>
      <th scope="row">
        {id}
        <div className="muted small nowrap">
          <Time value={createdAt} />
        </div>
      </th>
      <td>
        {name === undefined ? null : <Badge tone={tone ?? 'neutral'}>{t(`deliveries.states.${name}`)}</Badge>}
        {name === 'retrying' && nextAttemptAt !== undefined ? (
          <div className="muted small nowrap">
            <Time value={nextAttemptAt} />
          </div>
        ) : null}
      </td>
      <td className="breakable">
        {format.number(count)}
        {ranges.slice(0, shownRanges).map(({ channelType, channelId, firstSeq, lastSeq }) => (
          <div key={`${channelType}/${channelId}/${firstSeq}`} className="muted small">
            {t('deliveries.range', { channel: channelId, first: firstSeq.toString(), last: lastSeq.toString() })}
          </div>
        ))}
        {ranges.length > shownRanges ? <div className="muted small">…</div> : null}
      </td>
      <td className="number">{attempts}</td>
      <td className="breakable">
        {lastStatus === 0 ? <span className="muted">{t('deliveries.noAnswer')}</span> : lastStatus}
        <div className="muted small">{lastError}</div>
      </td>
    </tr>
  );
}
