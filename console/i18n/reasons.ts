import type { Language } from './language.ts';

/**
 * The reasons of refusals in plain words, `[English, Chinese]`. A test holds the list to the
 * reasons of the service.
 */
export const reasonWords: Readonly<Record<string, readonly [en: string, zh: string]>> = {
  BATCH_NOT_FOUND: ['This batch does not exist, or belongs to another caller', '该批次不存在，或属于其他调用方'],
  BATCH_NOT_RETRYABLE: ['This batch cannot be retried', '该批次无法重试'],
  BATCH_TOO_LARGE: ['Too much at once', '一次提交的内容过多'],
  CHANNEL_BANNED: ['The channel is blocked', '通道已被封禁'],
  CHANNEL_DISBANDED: ['The channel was closed', '通道已解散'],
  CHANNEL_NOT_EXIST: ['The channel does not exist', '通道不存在'],
  CLIENT_MSG_NO_REUSED: [
    'Another message was already sent under the same key',
    '同一个消息编号已用于另一条内容不同的消息',
  ],
  CONTENT_REFUSED: ['A content rule refused the text', '内容被审核规则拒绝'],
  CREDENTIAL_INVALID: ['The key or token is not valid', '密钥或令牌无效'],
  CREDENTIAL_MISSING: ['Sign in first', '请先登录'],
  DEADLINE: ['It took too long; whether it was done is not known', '处理超时，结果未知'],
  EMPTY_BATCH: ['There are no messages', '没有任何消息'],
  INTERNAL: ['The service has a fault', '服务内部出错'],
  INVALID_FIELD: ['An entry is not valid', '填写的内容无效'],
  IN_DENYLIST: ['The sender is on the denylist', '发送者在黑名单中'],
  KEY_NOT_FOUND: ['The key does not exist', '密钥不存在'],
  MESSAGE_NOT_FOUND: ['The message does not exist any more', '消息不存在或已过期'],
  MESSAGE_RECALLED: ['The message was recalled', '消息已撤回'],
  NOT_ALLOWED: ['Only the two people of this conversation may do this', '只有会话双方可以执行此操作'],
  NOT_IN_ALLOWLIST: ['The sender is not on the allowlist', '发送者不在白名单中'],
  NOT_SUBSCRIBER: ['The sender is not a member of the channel', '发送者不是通道成员'],
  NOT_THE_SENDER: ['Only the sender may see who has read a message', '只有发送者可以查看消息的已读情况'],
  OVERLOADED: ['The service is busy; try again in a moment', '服务繁忙，请稍后重试'],
  PAYLOAD_TOO_LARGE: ['The message is too long', '消息内容过长'],
  RATE_LIMITED: ['Too many messages in a short time', '发送过于频繁'],
  REACH_IN_PROGRESS: ['Another count is still running; try again in a moment', '另一项统计仍在进行，请稍后重试'],
  READER_NOT_YOURS: ['This key may not read for that user', '该密钥无权以此用户的身份读取'],
  READER_TOO_SLOW: ['The page could not keep up with the messages', '页面来不及接收消息'],
  RECALL_WINDOW_OVER: ['The message is too old to be recalled or changed', '消息已超过可撤回或编辑的时限'],
  REQUEST_ID_REUSED: ['This submission was already made with other content', '该提交编号已用于其他内容'],
  REVISION_MISMATCH: ['The message was changed meanwhile', '消息已被他人修改'],
  RULE_NOT_FOUND: ['The rule does not exist', '规则不存在'],
  SCOPE_MISSING: ['This key is not allowed to do that', '该密钥没有执行此操作的权限'],
  SENDER_BANNED: ['The sender is blocked from sending', '发送者已被禁止发送'],
  SENDER_NOT_YOURS: ['This key may not send as that user', '该密钥无权以此用户的身份发送'],
  SEQ_AHEAD: ['The channel has no such message yet', '通道中还没有这个序号'],
  SEQ_EXPIRED: ['These messages are no longer kept', '这些消息已过保留期'],
  SEQ_MISMATCH: ['Somebody else has written to the channel meanwhile', '期间通道有了其他新消息'],
  STOPPING: ['The service is restarting; try again in a moment', '服务正在重启，请稍后重试'],
  STORE_BUSY: ['The database is busy; try again in a moment', '数据库繁忙，请稍后重试'],
  TEMPLATE_FAILED: ['The template cannot be filled in', '模板无法填充'],
  TEMPLATE_NOT_FOUND: ['The template does not exist', '模板不存在'],
  TOO_MANY_BATCHES: ['Too many batches are waiting', '等待中的批次过多'],
  TOO_MANY_CHANNELS: ['The user is in too many channels', '用户加入的通道过多'],
  WEBHOOK_EXISTS: ['A webhook has this name already', '已有同名的 Webhook'],
  WEBHOOK_NOT_FOUND: ['The webhook does not exist', 'Webhook 不存在'],
};

/** The words of a reason; undefined for one that this console does not know. */
export function reasonInWords(reason: string, language: Language): string | undefined {
  const words = Object.hasOwn(reasonWords, reason) ? reasonWords[reason] : undefined;
  return words?.[language === 'zh' ? 1 : 0];
}
