import type { Columns } from '../../src/message-files/mapping.ts';
import type { FileInfo } from './engine/engine.ts';
import type { Content, Plan, TemplateText } from './engine/plan.ts';

/** The choices of the page, before they are complete. */
export interface Form {
  /** 1 to 12; ignored while `typeColumn` is set. */
  readonly channelType: number;
  readonly typeColumn: string;
  readonly receiverColumn: string;
  readonly sender: string;
  readonly senderColumn: string;
  readonly isUnread: boolean;
  readonly tag: string;
  readonly expire: string;
  readonly keyColumn: string;
  readonly timeColumn: string;
  readonly source: Content['kind'];
  readonly text: string;
  readonly isJson: boolean;
  readonly payloadColumn: string;
  readonly isBase64: boolean;
  /** Empty: none chosen. */
  readonly templateName: string;
  readonly templateVersion: number;
  readonly templateText: TemplateText | undefined;
  readonly uniqueColumn: string;
  /** Columns of further fields, named as these are in the contract. */
  readonly furtherColumns: Columns;
}

const furtherFields = ['expire', 'tag_key', 'stream_no', 'red_dot', 'no_persist', 'sync_once'] as const;

const personType = 1;
/** A uid that every service knows, unless its settings say otherwise. */
const systemUid = 'system';

/** The choices that a file suggests. */
export function formFor(
  { columns, guess, payloadIsBase64, holdsMessages }: FileInfo,
  ownUid: string | undefined,
): Form {
  return {
    channelType: personType,
    typeColumn: guess.channel_type ?? '',
    receiverColumn: guess.channel_id ?? '',
    sender: ownUid ?? systemUid,
    senderColumn: guess.from_uid ?? '',
    isUnread: true,
    tag: '',
    expire: '',
    keyColumn: guess.client_msg_no ?? '',
    timeColumn: guess.send_at ?? '',
    source: holdsMessages ? 'lines' : guess.payload === undefined ? 'text' : 'column',
    text: '',
    isJson: false,
    payloadColumn: guess.payload ?? '',
    isBase64: payloadIsBase64,
    templateName: '',
    templateVersion: 0,
    templateText: undefined,
    uniqueColumn: '',
    furtherColumns: Object.fromEntries(
      furtherFields.filter((field) => columns.includes(field)).map((field) => [field, field]),
    ),
  };
}

/** Keeps the choices that still fit a file that was read in another way. */
export function refit(form: Form, info: FileInfo, ownUid: string | undefined): Form {
  const guessed = formFor(info, ownUid);
  const fitting = (column: string, otherwise: string) =>
    column === '' || info.columns.includes(column) ? column : otherwise;
  return {
    ...form,
    typeColumn: fitting(form.typeColumn, guessed.typeColumn),
    receiverColumn: fitting(form.receiverColumn, guessed.receiverColumn),
    senderColumn: fitting(form.senderColumn, guessed.senderColumn),
    keyColumn: fitting(form.keyColumn, guessed.keyColumn),
    timeColumn: fitting(form.timeColumn, guessed.timeColumn),
    payloadColumn: fitting(form.payloadColumn, guessed.payloadColumn),
    uniqueColumn: fitting(form.uniqueColumn, ''),
    furtherColumns: guessed.furtherColumns,
  };
}

/** What the choices mean; undefined while something is missing. */
export function planOf(form: Form): Plan | undefined {
  const content = contentOf(form);
  const hasSender = form.senderColumn !== '' || form.sender.trim() !== '';
  if (content === undefined) return undefined;
  if (content.kind === 'lines') {
    const defaults = { channel_type: String(form.channelType), from_uid: form.sender.trim() };
    return { columns: {}, defaults: withoutEmpty(defaults), content, uniqueColumn: form.uniqueColumn || undefined };
  }
  if (form.receiverColumn === '' || !hasSender) return undefined;
  const columns = {
    ...form.furtherColumns,
    channel_id: form.receiverColumn,
    channel_type: form.typeColumn,
    from_uid: form.senderColumn,
    client_msg_no: form.keyColumn,
    send_at: form.timeColumn,
  };
  const defaults = {
    // A column whose cell is empty falls back to the fixed value.
    channel_type: String(form.channelType),
    from_uid: form.senderColumn === '' ? form.sender.trim() : '',
    red_dot: form.isUnread ? '1' : '',
    tag_key: form.tag.trim(),
    expire: form.expire.trim(),
  };
  return {
    columns: withoutEmpty(columns),
    defaults: withoutEmpty(defaults),
    content,
    uniqueColumn: form.uniqueColumn || undefined,
  };
}

function contentOf({
  source,
  text,
  isJson,
  payloadColumn,
  isBase64,
  templateName,
  ...form
}: Form): Content | undefined {
  switch (source) {
    case 'lines':
      return { kind: 'lines', isBase64 };
    case 'text':
      return text.trim() === ''
        ? undefined
        : { kind: 'text', template: { body: text, format: isJson ? 'json' : 'text' } };
    case 'column':
      return payloadColumn === '' ? undefined : { kind: 'column', column: payloadColumn, isBase64 };
    case 'stored':
      return templateName === ''
        ? undefined
        : { kind: 'stored', name: templateName, version: form.templateVersion, template: form.templateText };
  }
}

function withoutEmpty(values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ''));
}
