import type { Reason } from '../src/messages/service-error.ts';

/**
 * What a caller does about a refusal. `retry`: whether the same call can succeed later, unchanged.
 */
export interface Advice {
  readonly retry: 'no' | 'yes' | 'later';
  readonly action: string;
  /** When the reason is given, where a row of the proto covers several reasons. */
  readonly when?: string;
}

const mayNot = 'Ask an administrator of the channel; add the sender or change the list.';

/** Advice per reason; a new reason without advice fails the type check. */
export const advice: Record<Reason, Advice> = {
  INVALID_FIELD: { retry: 'no', action: 'Correct the fields that `BadRequest` names.' },
  EMPTY_BATCH: { retry: 'no', action: 'Send at least one message.' },
  BATCH_TOO_LARGE: {
    retry: 'no',
    action: 'Split the batch, or submit it as a background batch.',
    when: 'a request, a list or the whole batch exceeds a limit; metadata `limit`, `actual`',
  },
  PAYLOAD_TOO_LARGE: {
    retry: 'no',
    action: 'Shorten the payload, or send a reference to the content.',
    when: 'a payload exceeds 64 KiB; metadata `limit`, `actual`',
  },
  CREDENTIAL_MISSING: {
    retry: 'no',
    action: 'Send an API key, a token or a client certificate.',
    when: 'the call has no credential',
  },
  CREDENTIAL_INVALID: {
    retry: 'no',
    action: 'Get a new key or token.',
    when: 'the credential is unknown, expired or revoked',
  },
  SCOPE_MISSING: { retry: 'no', action: 'Use a credential with the scope in `scope`.' },
  SENDER_NOT_YOURS: { retry: 'no', action: 'Send as the token’s subject, or as a sender of the key.' },
  READER_NOT_YOURS: { retry: 'no', action: 'Read as the token’s subject.' },
  NOT_THE_SENDER: { retry: 'no', action: 'Ask as the sender, or as a service.' },
  NOT_SUBSCRIBER: {
    retry: 'no',
    action: 'Add the user with `AddMembers` (`POST /channel/subscriber_add`).',
    when: 'the user is not a member of the channel; callers without the scope `admin` get this for unknown channels too',
  },
  IN_DENYLIST: {
    retry: 'no',
    action: mayNot,
    when: 'the sender is on the denylist of the channel or of a receiver; metadata `receivers` names them for a command',
  },
  NOT_IN_ALLOWLIST: {
    retry: 'no',
    action: mayNot,
    when: 'the allowlist of the channel or of a receiver does not have the sender; metadata `receivers` as above',
  },
  NOT_ALLOWED: {
    retry: 'no',
    action: 'Only the two sides of the channel can send and read.',
    when: 'the user is not a side of this person or agent channel',
  },
  CHANNEL_BANNED: {
    retry: 'no',
    action: 'Lift the ban with `PutChannel` (`POST /channel`).',
    when: 'the channel is banned (`ban` or `send_ban`)',
  },
  CHANNEL_DISBANDED: {
    retry: 'no',
    action: 'Use another channel, or lift it with `PutChannel`.',
    when: 'the channel was disbanded',
  },
  SENDER_BANNED: {
    retry: 'no',
    action: 'Lift the ban with `PutChannel` of type 1.',
    when: 'the user is banned from sending (`send_ban` of its channel of type 1)',
  },
  CHANNEL_NOT_EXIST: {
    retry: 'no',
    action: 'Create the channel with `PutChannel` (`POST /channel`).',
    when: 'the channel was never created; only callers with the scope `admin` get this',
  },
  CONTENT_REFUSED: { retry: 'no', action: 'Change the content, or the rule that `rule_id` names.' },
  RULE_NOT_FOUND: { retry: 'no', action: 'List the rules.', when: 'no moderation rule has this id' },
  TEMPLATE_NOT_FOUND: {
    retry: 'no',
    action: 'Store the template, or name an existing version.',
    when: 'no template, or no version of it, has this name',
  },
  TEMPLATE_FAILED: { retry: 'no', action: 'Give the variables in `missing`, or correct the template.' },
  BATCH_NOT_FOUND: {
    retry: 'no',
    action: 'Check the id, and that the same caller submitted it.',
    when: 'no batch of this caller has this id, or its retention has passed',
  },
  BATCH_NOT_RETRYABLE: { retry: 'no', action: 'Wait until the batch has ended; to resume it, cancel it first.' },
  REACH_IN_PROGRESS: { retry: 'later', action: 'Wait for RetryInfo, then ask again.' },
  REQUEST_ID_REUSED: { retry: 'no', action: 'Use a new `request_id` for other messages.' },
  TOO_MANY_BATCHES: { retry: 'no', action: 'Wait until batches have ended, or cancel some.' },
  WEBHOOK_NOT_FOUND: { retry: 'no', action: 'List the webhooks.', when: 'no webhook has this name' },
  WEBHOOK_EXISTS: { retry: 'no', action: 'Use another name, or update the webhook.' },
  KEY_NOT_FOUND: { retry: 'no', action: 'List the keys.', when: 'no API key has this id' },
  CLIENT_MSG_NO_REUSED: { retry: 'no', action: 'Use a new key for other content.' },
  MESSAGE_NOT_FOUND: { retry: 'no', action: 'Check channel, number or key; `ListMessages` shows what is kept.' },
  MESSAGE_RECALLED: { retry: 'no', action: 'Send a new message.' },
  RECALL_WINDOW_OVER: { retry: 'no', action: 'Use a credential with the scope `admin`, or set `RECALL_WINDOW`.' },
  REVISION_MISMATCH: { retry: 'no', action: 'Read the message again, then edit with `actual`.' },
  SEQ_MISMATCH: { retry: 'no', action: 'Read on from the sequence you expected, then send with `actual`.' },
  SEQ_EXPIRED: { retry: 'no', action: 'Continue at `first_seq`.' },
  SEQ_AHEAD: { retry: 'no', action: 'Discard the cursor and start again.' },
  TOO_MANY_CHANNELS: { retry: 'no', action: 'Name up to 100 channels instead of `all_of_uid`.' },
  READER_TOO_SLOW: { retry: 'yes', action: 'Resume from the last sequence seen, and read faster.' },
  RATE_LIMITED: { retry: 'later', action: 'Wait for RetryInfo, then retry with the same keys.' },
  STORE_BUSY: { retry: 'later', action: 'Wait for RetryInfo, then retry with the same keys.' },
  STOPPING: { retry: 'later', action: 'Call again; the load balancer leads to another instance.' },
  OVERLOADED: { retry: 'later', action: 'Wait for RetryInfo, then retry with the same keys.' },
  DEADLINE: { retry: 'yes', action: 'Retry with the same keys: what was stored is found.' },
  INTERNAL: { retry: 'no', action: 'Report the `x-request-id`; the log has the cause.' },
};
