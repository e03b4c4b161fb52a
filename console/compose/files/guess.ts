import { resembles, toBareName } from '../../../src/message-files/field-names.ts';
import { type Field, fields } from '../../../src/message-files/mapping.ts';

/** A field that a column can fill. */
export type Target = Field | 'payload';

// cspell:ignore receiverid touid memberid customerid senderid messagekey sendtime scheduledat

/** Other names of fields in spreadsheets, the likeliest first. */
const synonyms: Readonly<Partial<Record<Target, readonly string[]>>> = {
  channel_id: [
    'uid',
    'userid',
    'receiver',
    'receiverid',
    'recipient',
    'touid',
    'to',
    'user',
    'member',
    'memberid',
    'customerid',
    'customer',
    'account',
    'phone',
    'mobile',
    'email',
    'id',
    '用户id',
    '用户编号',
    '用户',
    '接收人',
    '收件人',
    '接收者',
    '会员号',
    '会员编号',
    '会员',
    '客户编号',
    '客户',
    '账号',
    '手机号',
    '手机',
    '电话',
    '邮箱',
    '编号',
  ],
  from_uid: ['sender', 'senderid', 'from', '发送人', '发送者', '发件人'],
  payload: ['message', 'text', 'content', 'body', 'msg', '消息', '消息内容', '内容', '正文', '短信内容', '文案'],
  channel_type: ['type', '通道类型', '频道类型', '类型'],
  client_msg_no: ['messagekey', 'key', '消息编号'],
  send_at: ['sendtime', 'scheduledat', '发送时间', '定时'],
  tag_key: ['tag', 'label', 'campaign', '标签'],
};

/** The columns that probably fill fields; each column fills at most one. */
export function guessColumns(columns: readonly string[]): Partial<Record<Target, string>> {
  const guessed: Partial<Record<Target, string>> = {};
  const free = new Set(columns);
  const take = (field: Target, column: string | undefined) => {
    if (column === undefined) return;
    guessed[field] = column;
    free.delete(column);
  };
  const targets: readonly Target[] = [...fields, 'payload'];
  for (const field of targets)
    take(
      field,
      [...free].find((each) => toBareName(each) === toBareName(field)),
    );
  for (const [field, names] of Object.entries(synonyms) as [Target, readonly string[]][])
    if (guessed[field] === undefined)
      for (const name of names) {
        const found = [...free].find((each) => toBareName(each) === name);
        if (found === undefined) continue;
        take(field, found);
        break;
      }
  for (const field of targets)
    if (guessed[field] === undefined)
      take(
        field,
        [...free].find((each) => resembles(each, field)),
      );
  return guessed;
}

/** Whether at least this share of texts is base64 that is not plain words: payloads of NDJSON are. */
export function looksLikeBase64(texts: readonly string[], share: number): boolean {
  const filled = texts.filter((text) => text !== '');
  const encoded = filled.filter((text) => text.length % 4 === 0 && /^[A-Za-z0-9+/]+={0,2}$/.test(text));
  return (
    encoded.length > 0 &&
    encoded.length >= filled.length * share &&
    encoded.some((text) => /[=+/]|[a-z][A-Z]|\d/.test(text))
  );
}
