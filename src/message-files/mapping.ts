/** The fields of a message that a column can fill, or an option for rows without a value. */
export const fields = [
  'from_uid',
  'channel_id',
  'channel_type',
  'client_msg_no',
  'expire',
  'tag_key',
  'stream_no',
  'red_dot',
  'no_persist',
  'sync_once',
  'send_at',
] as const;
export type Field = (typeof fields)[number];

/** The column of each field that has one. */
export type Columns = Readonly<Partial<Record<Field | 'payload', string>>>;

/** How entries are converted to messages. */
export interface Mapping {
  /**
   * Values of options, for all entries. In CSV they replace the column, unless `columns` names it:
   * then they fill its empty cells.
   */
  readonly defaults: Readonly<Partial<Record<Field, string>>>;
  /** Columns named by --column. */
  readonly columns: Columns;
  /** Columns that look like fields but are none. */
  readonly ignored: readonly string[];
  /** Renders the payload of a row, with all columns as variables. */
  readonly template: { readonly name: string; readonly version: number } | undefined;
  readonly payloadBase64: boolean;
  /** Whether messages may have a send_at: in submitted batches. */
  readonly takesSendAt: boolean;
}
