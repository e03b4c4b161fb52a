import { durationMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { useQuery } from '@connectrpc/connect-query';
import { keepPreviousData } from '@tanstack/react-query';
import { useMemo } from 'react';
import {
  AdminService,
  type GetOverviewResponse,
  type Instance,
  type OverviewInterval,
} from '../../gen/client/sendbatch/v1/admin_service_pb.ts';
import { usePreferences } from '../i18n/preferences.ts';
import { reasonInWords } from '../i18n/reasons.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useQueryParams } from '../ui/address.ts';
import { Facts, TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { Figure, Figures } from '../ui/figures.tsx';
import { Page } from '../ui/page.tsx';
import { Chart } from './chart.tsx';
import { overviewTexts } from './texts.ts';
import { mergeReasons, totalsOf } from './totals.ts';
import './overview.css';

const ranges = ['5', '15', '60'] as const;
const refreshMs = 10_000;
/** "Now" is the mean of this many intervals, so that one quiet interval is no zero. */
const nowIntervals = 3;

/** What the service does: rates, durations, refusals, queues and instances of the last hour. */
export default function OverviewPage() {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  const [params, setParams] = useQueryParams();
  const range = ranges.find((each) => each === params.get('minutes')) ?? '15';
  const { data, error, isPending, refetch } = useQuery(
    AdminService.method.getOverview,
    {},
    { refetchInterval: refreshMs, placeholderData: keepPreviousData },
  );
  const stepMs = data?.interval === undefined ? 10_000 : durationMs(data.interval);
  return (
    <Page title={t('title')} lead={t('lead', { seconds: format.number(stepMs / 1000) })}>
      <div className="row end">
        <Field label={t('range')}>
          {(props) => (
            <select {...props} value={range} onChange={({ target }) => setParams({ minutes: target.value })}>
              {ranges.map((minutes) => (
                <option key={minutes} value={minutes}>
                  {minutes === '60' ? t('hour') : t('minutes', { count: Number(minutes) })}
                </option>
              ))}
            </select>
          )}
        </Field>
      </div>
      {error === null ? null : <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {isPending ? <Loading /> : null}
      {data === undefined ? null : <Dashboard data={data} minutes={Number(range)} stepMs={stepMs} />}
      {data?.since === undefined ? null : <p className="hint">{t('source', { time: format.time(data.since) })}</p>}
    </Page>
  );
}

interface DashboardProps {
  readonly data: GetOverviewResponse;
  readonly minutes: number;
  readonly stepMs: number;
}

function Dashboard({ data, minutes, stepMs }: DashboardProps) {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  const newestMs = Math.max(
    0,
    ...data.intervals.map(({ beganAt }) => (beganAt === undefined ? 0 : timestampMs(beganAt))),
  );
  const shown = useMemo(
    () =>
      data.intervals.filter(
        ({ beganAt }) => beganAt !== undefined && timestampMs(beganAt) > newestMs - minutes * 60_000,
      ),
    [data, minutes, newestMs],
  );
  const latest = shown.at(-1);
  if (latest === undefined) return <Empty title={t('waiting')} />;
  const totals = totalsOf(shown, stepMs);
  const now = totalsOf(shown.slice(-nowIntervals), stepMs);
  return (
    <>
      <section className="card" aria-label={t('title')}>
        <Figures>
          <Figure label={t('figures.rate')} value={format.number(roundRate(now.perSecond))} />
          <Figure
            label={t('figures.success')}
            value={totals.messages === 0 ? '–' : format.percent(roundDown(totals.successShare))}
            isBad={totals.messages > 0 && totals.successShare < 0.95}
          />
          <Figure label={t('figures.p50')} value={now.p50Ms === 0 ? '–' : format.duration(now.p50Ms)} />
          <Figure label={t('figures.p99')} value={now.p99Ms === 0 ? '–' : format.duration(now.p99Ms)} />
          <Figure label={t('figures.refused')} value={format.number(totals.refusedCalls)} />
          <Figure
            label={t('figures.failed')}
            value={format.number(totals.failedCalls)}
            isBad={totals.failedCalls > 0}
          />
          <Figure
            label={t('figures.rejected')}
            value={format.number(totals.rejectedRequests)}
            isBad={totals.rejectedRequests > 0}
          />
          <Figure label={t('figures.readers')} value={format.number(latest.tailReaders)} />
          <Figure label={t('figures.instances')} value={format.number(data.instances.length)} />
        </Figures>
      </section>
      <Charts intervals={shown} stepMs={stepMs} />
      <div className="halves">
        <Refused intervals={shown} />
        <Queues latest={latest} />
      </div>
      <Instances instances={data.instances} />
    </>
  );
}

function roundRate(value: number): number {
  return value < 10 ? Number(value.toFixed(1)) : Math.round(value);
}

/** With one refusal among 100,000 messages the share is not shown as 100%. */
function roundDown(share: number): number {
  return share === 1 ? 1 : Math.min(Number(share.toFixed(3)), 0.999);
}

interface ChartsProps {
  readonly intervals: readonly OverviewInterval[];
  readonly stepMs: number;
}

function Charts({ intervals, stepMs }: ChartsProps) {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  const times = intervals.map(({ beganAt }) => (beganAt === undefined ? 0 : timestampMs(beganAt) / 1000));
  const perSecond = (count: bigint | number) => (Number(count) * 1000) / stepMs;
  const line = (label: string, color: string, values: (number | null)[]) => ({ label, color, values });
  const summaryOf = (label: string, values: readonly (number | null)[]) =>
    t('charts.summary', {
      label,
      now: format.number(Math.round(values.at(-1) ?? 0)),
      most: format.number(Math.round(Math.max(0, ...values.map((value) => value ?? 0)))),
    });
  const messages = [
    line(
      t('charts.accepted'),
      '--accent',
      intervals.map((each) => perSecond(each.acceptedCount)),
    ),
    line(
      t('charts.refused'),
      '--danger',
      intervals.map((each) => perSecond(each.refused.reduce((sum, { count }) => sum + Number(count), 0))),
    ),
    line(
      t('charts.delivered'),
      '--success',
      intervals.map((each) => perSecond(each.tailMessageCount)),
    ),
  ];
  const durations = [
    line(
      t('charts.p50'),
      '--accent',
      intervals.map((each) => (each.sendCount === 0n ? null : each.sendP50Seconds * 1000)),
    ),
    line(
      t('charts.p99'),
      '--warning',
      intervals.map((each) => (each.sendCount === 0n ? null : each.sendP99Seconds * 1000)),
    ),
  ];
  const queues = [
    line(
      t('charts.batchQueue'),
      '--accent',
      intervals.map((each) => Number(each.batchQueueMessages)),
    ),
    line(
      t('charts.lanes'),
      '--warning',
      intervals.map((each) => Number(each.laneMessages)),
    ),
    line(
      t('charts.webhooks'),
      '--success',
      intervals.map((each) => Number(each.webhookQueueMessages)),
    ),
  ];
  return (
    <div className="charts">
      {(
        [
          [t('charts.messages'), messages],
          [t('charts.durations'), durations],
          [t('charts.queues'), queues],
        ] as const
      ).map(([title, series]) => (
        <Chart
          key={title}
          title={title}
          times={times}
          series={series}
          summary={series.map(({ label, values }) => summaryOf(label, values)).join('. ')}
        />
      ))}
    </div>
  );
}

function Refused({ intervals }: { readonly intervals: readonly OverviewInterval[] }) {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  const { language } = usePreferences();
  const reasons = mergeReasons(intervals);
  const total = reasons.reduce((sum, { count }) => sum + count, 0);
  return (
    <section className="stack" aria-labelledby="refused">
      <h2 id="refused">{t('refused.title')}</h2>
      {total === 0 ? (
        <Empty title={t('refused.none')} />
      ) : (
        <TableScroll label={t('refused.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('refused.reason')}</th>
                <th scope="col" className="number">
                  {t('refused.count')}
                </th>
                <th scope="col" className="number">
                  {t('refused.share')}
                </th>
              </tr>
            </thead>
            <tbody>
              {reasons.map(({ reason, count }) => (
                <tr key={reason}>
                  <th scope="row">
                    {reasonInWords(reason, language) ?? reason}
                    <div className="muted small mono">{reason}</div>
                  </th>
                  <td className="number">{format.number(count)}</td>
                  <td className="number">{format.percent(count / total)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
    </section>
  );
}

function Queues({ latest }: { readonly latest: OverviewInterval }) {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  const waited = (seconds: number) => (seconds === 0 ? '–' : format.duration(seconds * 1000));
  return (
    <section className="stack" aria-labelledby="queues">
      <h2 id="queues">{t('queues.title')}</h2>
      <div className="card">
        <Facts
          items={[
            [t('queues.batches'), format.number(latest.batchQueueBatches)],
            [t('queues.batchMessages'), format.number(latest.batchQueueMessages)],
            [t('queues.batchOldest'), waited(latest.batchQueueOldestSeconds)],
            [t('queues.lanes'), format.number(latest.laneMessages)],
            [t('queues.laneOldest'), waited(latest.laneOldestSeconds)],
            [t('queues.webhooks'), format.number(latest.webhookQueueMessages)],
            [t('queues.parked'), format.number(latest.webhookParkedDeliveries)],
          ]}
        />
      </div>
    </section>
  );
}

function Instances({ instances }: { readonly instances: readonly Instance[] }) {
  const t = useTexts(overviewTexts);
  const format = useFormat();
  return (
    <section className="stack" aria-labelledby="instances">
      <h2 id="instances">{t('instances.title')}</h2>
      {instances.length === 0 ? (
        <Empty title={t('instances.none')} />
      ) : (
        <TableScroll label={t('instances.table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('instances.host')}</th>
                <th scope="col">{t('instances.version')}</th>
                <th scope="col">{t('instances.started')}</th>
                <th scope="col" className="number">
                  {t('instances.cpu')}
                </th>
                <th scope="col" className="number">
                  {t('instances.memory')}
                </th>
                <th scope="col" className="number">
                  {t('instances.readers')}
                </th>
                <th scope="col" className="number">
                  {t('instances.lanes')}
                </th>
              </tr>
            </thead>
            <tbody>
              {instances.map((each) => (
                <tr key={each.instanceId}>
                  <th scope="row">
                    {each.host}
                    <div className="muted small">{t('instances.process', { pid: String(each.pid) })}</div>
                  </th>
                  <td>{each.version}</td>
                  <td className="nowrap">
                    <Time value={each.startedAt} />
                  </td>
                  <td className="number">{format.number(Number(each.cpuCores.toFixed(2)))}</td>
                  <td className="number nowrap">{format.bytes(Number(each.memoryBytes))}</td>
                  <td className="number">{format.number(each.tailReaders)}</td>
                  <td className="number nowrap">
                    {each.laneMessages.length === 0
                      ? '–'
                      : each.laneMessages.map((count) => format.number(count)).join(' · ')}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
    </section>
  );
}
