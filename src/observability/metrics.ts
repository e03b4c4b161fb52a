/**
 * Every metric of the service: its name, kind, help and labels. Code records through this table, so
 * a metric that is not in it cannot exist; the reference of metrics is generated from it.
 *
 * Rules:
 *  1. Names follow Prometheus: base units at the end (`_seconds`, `_bytes`), `_total` on counters.
 *     Calls, the event loop and garbage collection are named as OpenTelemetry names them.
 *  2. Label values come from a fixed, short list. No uid, channel, credential or other caller data
 *     is a label.
 *  3. With several workers each sample also has the label `worker`.
 */
export interface Metric {
  readonly name: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  /** Label names, as Prometheus shows them. */
  readonly labels?: readonly string[];
  /** Upper bounds of a histogram's buckets. */
  readonly bounds?: readonly number[];
}

/**
 * From half a millisecond (a commit on an idle machine) to 30 s (the longest deadline of a call).
 */
const secondsBounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const countBounds = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000];
const gcBounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];

const counter = (name: string, help: string, labels: readonly string[] = []): Metric => ({
  name,
  kind: 'counter',
  help,
  labels,
});
const gauge = (name: string, help: string, labels: readonly string[] = []): Metric => ({
  name,
  kind: 'gauge',
  help,
  labels,
});
const seconds = (name: string, help: string, labels: readonly string[] = [], bounds = secondsBounds): Metric => ({
  name,
  kind: 'histogram',
  help,
  labels,
  bounds,
});
const counts = (name: string, help: string): Metric => ({ name, kind: 'histogram', help, bounds: countBounds });

/** The metrics, by capability. */
export const metrics = {
  callDuration: seconds(
    'rpc_server_call_duration_seconds',
    'Duration of calls by RPC, protocol and status code (OpenTelemetry rpc.server.call.duration). A stream is counted when it ends.',
    ['rpc_system_name', 'rpc_method', 'protocol', 'rpc_response_status_code', 'error_type'],
  ),
  requestsRejected: counter(
    'sendbatch_requests_rejected_total',
    'Requests rejected before a call was created, by reason: origin (Origin or Host not allowed), not_found (unknown path), malformed (unreadable), overloaded (load shedding).',
    ['reason'],
  ),
  internalErrors: counter(
    'sendbatch_internal_errors_total',
    'Calls that ended with INTERNAL. The log has the cause of each at level error.',
  ),

  batches: counter(
    'sendbatch_batches_total',
    'Batches by outcome: stored (every message), partial (some messages), refused (no message, caller error), failed (no message, server error).',
    ['outcome'],
  ),
  batchMessages: counts('sendbatch_batch_messages', 'Messages per batch.'),
  messages: counter(
    'sendbatch_messages_total',
    'Messages by outcome: accepted, duplicate, refused (with the reason of the refusal).',
    ['outcome', 'reason'],
  ),
  rateLimitedMessages: counter(
    'sendbatch_rate_limited_messages_total',
    'Messages refused by a rate limit, by limit: caller, sender, channel.',
    ['limit'],
  ),
  groupMessages: counts('sendbatch_group_messages', 'Messages per group commit.'),
  groupBatches: counts('sendbatch_group_batches', 'Batches per group commit.'),
  groupWait: seconds('sendbatch_group_wait_seconds', 'Time that the oldest batch of a group waited in its lane.'),
  commitDuration: seconds(
    'sendbatch_commit_duration_seconds',
    'Duration of a group commit, retries included, by append mode: optimistic (one statement), pessimistic (row locks first), skip_locked (without channels that another transaction has locked).',
    ['mode', 'outcome'],
  ),
  commitRetries: counter(
    'sendbatch_commit_retries_total',
    'Retries of group commits by reason: duplicate_send, sender_denied, channel_created, channel_removed, lock_timeout, connection_lost, conflict.',
    ['reason'],
  ),
  lockWait: seconds(
    'sendbatch_lock_wait_seconds',
    'Time from BEGIN until a pessimistic group had locked its channels, one round trip included.',
  ),
  laneMessages: gauge(
    'sendbatch_lane_waiting_messages',
    'Messages that wait for the next commit of a lane. With more than 65 lanes one series, with the largest value: `lane="largest"`.',
    ['lane'],
  ),
  laneBatches: gauge('sendbatch_lane_waiting_batches', 'Batches that wait for the next commit of a lane.', ['lane']),
  laneOldestAge: gauge('sendbatch_lane_oldest_age_seconds', 'Age of the oldest batch that waits in a lane.', ['lane']),
  laneLimit: gauge(
    'sendbatch_lane_limit_messages',
    'Capacity of a lane in messages; more messages are refused with STORE_BUSY.',
  ),

  connectionsLost: counter('sendbatch_database_connections_lost_total', 'Database connections that broke.'),
  certificateExpiry: gauge(
    'sendbatch_tls_certificate_expiry_timestamp_seconds',
    'End of the validity of the TLS certificate in use, as Unix time; 0 without TLS.',
  ),
  reloads: counter(
    'sendbatch_reloads_total',
    'Reloads of changed files while the service runs, by files (tls, token_secrets) and outcome: ok, failed (the previous content stays in use).',
    ['files', 'outcome'],
  ),
  poolConnections: gauge('sendbatch_pool_connections', 'Open database connections by pool and state: idle, used.', [
    'pool',
    'state',
  ]),
  poolConnectionsMax: gauge('sendbatch_pool_connections_max', 'Maximum number of connections per pool.', ['pool']),
  poolPendingRequests: gauge(
    'sendbatch_pool_pending_requests',
    'Statements and transactions that wait for a connection of a pool.',
    ['pool'],
  ),
  lockWaitingConnections: gauge(
    'sendbatch_lock_waiting_connections',
    'Database connections, of all instances, that currently wait for a lock.',
  ),
  lockLongestWait: gauge('sendbatch_lock_longest_wait_seconds', 'Longest current wait for a lock, of all instances.'),

  messagesChanged: counter(
    'sendbatch_messages_changed_total',
    'Messages edited or recalled after they were sent, by kind: edited, recalled.',
    ['kind'],
  ),

  deliveryCursors: counter(
    'sendbatch_delivery_cursors_total',
    'Delivery cursors of users by outcome: written, dropped (more were waiting than are kept). Only with DELIVERY_CURSORS=on.',
    ['outcome'],
  ),
  tailMessages: counter('sendbatch_tail_messages_total', 'Messages delivered to tails.'),
  tailLag: seconds(
    'sendbatch_tail_lag_seconds',
    'Time from acceptance of a message until its delivery to a tail that has caught up.',
  ),
  tailReaders: gauge('sendbatch_tail_readers', 'Open tails.'),
  tailChannels: gauge('sendbatch_tail_channels', 'Channels followed by at least one tail.'),
  listenerConnected: gauge(
    'sendbatch_listener_connected',
    'Whether the LISTEN connection for wake-ups of other instances is up (1) or not (0). Tails poll every 5 s meanwhile.',
  ),

  batchQueueBatches: gauge('sendbatch_batch_queue_batches', 'Submitted batches that have not ended, of all instances.'),
  batchQueueMessages: gauge('sendbatch_batch_queue_messages', 'Messages without a result in those batches.'),
  batchQueueOldestAge: gauge(
    'sendbatch_batch_queue_oldest_age_seconds',
    'Time since the oldest unfinished batch became due. Batches scheduled for later do not count.',
  ),

  webhookDeliveryDuration: seconds(
    'sendbatch_webhook_delivery_duration_seconds',
    'Duration of webhook delivery attempts by outcome: delivered, failed (will be retried), parked (no automatic retry left), gone (the receiver answered 410).',
    ['outcome'],
  ),
  webhookMessages: counter('sendbatch_webhook_messages_total', 'Messages in webhook delivery attempts, by outcome.', [
    'outcome',
  ]),
  webhookQueueMessages: gauge(
    'sendbatch_webhook_queue_messages',
    'Messages not yet delivered, counted once per webhook, of all instances.',
  ),
  webhookQueueOldestAge: gauge(
    'sendbatch_webhook_queue_oldest_age_seconds',
    'Age of the oldest message that is not yet delivered to a webhook.',
  ),
  webhookParkedDeliveries: gauge(
    'sendbatch_webhook_parked_deliveries',
    'Deliveries without an automatic retry left; RedeliverWebhook retries them.',
  ),

  moderationHookDuration: seconds(
    'sendbatch_moderation_hook_duration_seconds',
    'Duration of calls of the moderation hook by outcome: ok, failed, skipped (circuit breaker open).',
    ['outcome'],
  ),
  backgroundRunDuration: seconds(
    'sendbatch_background_run_duration_seconds',
    'Duration of runs of background loops, by loop and outcome: ok, failed.',
    ['loop', 'outcome'],
  ),
  removedMessages: counter('sendbatch_removed_messages_total', 'Messages removed, by reason: expired, retention.', [
    'reason',
  ]),

  gcDuration: seconds(
    'v8js_gc_duration_seconds',
    'Pauses of garbage collection by type (OpenTelemetry v8js.gc.duration).',
    ['v8js_gc_type'],
    gcBounds,
  ),
  eventLoopDelayP99: gauge(
    'nodejs_eventloop_delay_p99_seconds',
    'Event loop delay since the last scrape, 99th percentile.',
  ),
  eventLoopDelayMax: gauge('nodejs_eventloop_delay_max_seconds', 'Event loop delay since the last scrape, maximum.'),
  eventLoopUtilization: gauge(
    'nodejs_eventloop_utilization_ratio',
    'Share of the time since the last scrape in which the event loop was busy.',
  ),
  residentMemory: gauge('process_resident_memory_bytes', 'Resident memory size of the process.'),
  memory: gauge(
    'nodejs_memory_bytes',
    'Memory of Node and V8 by kind: heap_used, heap_total, external, array_buffers.',
    ['kind'],
  ),
  cpu: counter('process_cpu_seconds_total', 'CPU time of the process by mode: user, system.', ['mode']),
  startTime: gauge('process_start_time_seconds', 'Start time of the process, as Unix time.'),
  buildInfo: gauge('sendbatch_build_info', 'Version of sendbatch and of Node. The value is always 1.', [
    'version',
    'node',
  ]),
} as const satisfies Record<string, Metric>;

/** Added where the metrics of several workers are gathered into one page. */
export const workerUp = gauge(
  'sendbatch_worker_up',
  'Whether the worker answered in time when it was asked for its metrics.',
  ['worker'],
);
