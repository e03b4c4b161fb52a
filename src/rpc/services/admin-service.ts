import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs, timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type {
  AdminService,
  InstanceSchema,
  OverviewIntervalSchema,
  SettingSchema,
} from '../../../gen/sendbatch/v1/admin_service_pb.ts';
import { type Interval, quantile } from '../../overview/interval.ts';
import type { LiveInstance, Overview, OverviewState } from '../../overview/overview.ts';
import { timestampMs } from '../timestamps.ts';

/** A setting, as ListSettings shows it. */
interface ListedSetting {
  readonly name: string;
  /** Of a secret: a text that does not tell it. */
  readonly value: string;
  readonly isSet: boolean;
  readonly default: string;
  readonly source: string;
  readonly sensitive: boolean;
  readonly bounds: string;
  readonly doc: string;
}

/** What AdminService needs. */
export interface AdminServiceParts {
  readonly overview: Overview;
  /** The settings of this instance. */
  readonly settings: readonly ListedSetting[];
}

/** Implements sendbatch.v1.AdminService: each RPC converts between the proto and a use case. */
export function createAdminService({ overview, settings }: AdminServiceParts): ServiceImpl<typeof AdminService> {
  return {
    getOverview({ since }) {
      const from = since === undefined ? 0 : timestampMs('since', since);
      const { everyMs, sendBounds, sinceMs, intervals, instances } = overview.read();
      return {
        interval: durationFromMs(everyMs),
        since: timestampFromMs(sinceMs),
        intervals: intervals
          .filter(({ tick }) => tick * everyMs >= from)
          .map((each) => toInterval(each, { everyMs, sendBounds })),
        instances: instances.map((each) => toInstance(each, everyMs)),
      };
    },
    listSettings: ({ names }) => ({
      settings: settings.filter(({ name }) => names.length === 0 || names.includes(name)).map(toSetting),
    }),
  };
}

function toSetting(setting: ListedSetting): MessageInitShape<typeof SettingSchema> {
  return {
    name: setting.name,
    value: setting.sensitive ? '' : setting.value,
    defaultValue: setting.default,
    source: setting.source,
    secret: setting.sensitive,
    isSet: setting.isSet,
    bounds: setting.bounds,
    description: setting.doc,
  };
}

function toInterval(
  interval: Interval,
  { everyMs, sendBounds }: Pick<OverviewState, 'everyMs' | 'sendBounds'>,
): MessageInitShape<typeof OverviewIntervalSchema> {
  const { totals, queues } = interval;
  return {
    beganAt: timestampFromMs(interval.tick * everyMs),
    instances: interval.instances.size,
    acceptedCount: BigInt(totals.accepted),
    duplicateCount: BigInt(totals.duplicates),
    refused: Object.entries(totals.refused)
      .sort(([, a], [, b]) => b - a)
      .map(([reason, count]) => ({ reason, count: BigInt(count) })),
    callCount: BigInt(totals.calls),
    refusedCallCount: BigInt(totals.refusedCalls),
    failedCallCount: BigInt(totals.failedCalls),
    rejectedRequestCount: BigInt(totals.rejectedRequests),
    sendCount: BigInt(totals.sends.reduce((sum, each) => sum + each, 0)),
    sendP50Seconds: quantile(0.5, totals.sends, sendBounds),
    sendP99Seconds: quantile(0.99, totals.sends, sendBounds),
    tailMessageCount: BigInt(totals.tailMessages),
    webhookMessageCount: BigInt(totals.webhookMessages),
    tailReaders: interval.tailReaders,
    laneMessages: BigInt(interval.laneMessages),
    laneOldestSeconds: interval.laneOldestMs / 1000,
    batchQueueBatches: BigInt(queues?.batches ?? 0),
    batchQueueMessages: BigInt(queues?.batchMessages ?? 0),
    batchQueueOldestSeconds: (queues?.batchOldestMs ?? 0) / 1000,
    webhookQueueMessages: BigInt(queues?.webhookMessages ?? 0),
    webhookParkedDeliveries: BigInt(queues?.parkedDeliveries ?? 0),
    cpuSeconds: interval.cpuSeconds,
  };
}

function toInstance({ last, ...instance }: LiveInstance, everyMs: number): MessageInitShape<typeof InstanceSchema> {
  return {
    instanceId: instance.instanceId,
    host: instance.host,
    pid: instance.pid,
    version: instance.version,
    startedAt: timestampFromMs(instance.startedAt),
    seenAt: timestampFromMs(instance.seenAt),
    laneMessages: last.laneMessages.map(BigInt),
    tailReaders: last.tailReaders,
    cpuCores: last.cpuSeconds / (everyMs / 1000),
    memoryBytes: BigInt(last.memoryBytes),
  };
}
