import { toJsonString } from '@bufbuild/protobuf';
import { type BatchResult, BatchResultSchema } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { reasonOf } from '../../../client/index.ts';
import { channelTypeName } from '../../channel-type.ts';
import { type ConnectOptions, connectTo } from '../../connect.ts';
import { paint, plain, print, printJson, visible } from '../../output/output.ts';

interface ResultsOptions extends ConnectOptions {
  readonly refused?: boolean;
  readonly csv?: boolean;
}

export async function printResults(batchId: string, options: ResultsOptions): Promise<void> {
  const { batches } = connectTo(options).client;
  let pageToken = '';
  if (options.csv) await print(resultColumns.join(','));
  do {
    const page = await batches.listBatchResults({ batchId, refusedOnly: options.refused === true, pageToken });
    for (const each of page.results) {
      if (options.json) await printJson(toJsonString(BatchResultSchema, each));
      else await print(options.csv ? csvLine(each) : resultLine(each));
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
}

const resultColumns = [
  'index',
  'line',
  'from_uid',
  'channel_type',
  'channel_id',
  'client_msg_no',
  'message_id',
  'message_seq',
  'duplicate',
  'reason',
  'message',
] as const;

function csvLine(result: BatchResult): string {
  const { index, line, fromUid, channelType, channelId, clientMsgNo, messageId, messageSeq, duplicate, error } = result;
  const isRefused = error !== undefined;
  const cells = [
    index,
    line === 0 ? '' : line,
    fromUid,
    channelType === 0 ? '' : channelType,
    channelId,
    clientMsgNo,
    isRefused ? '' : messageId,
    isRefused ? '' : messageSeq,
    duplicate,
    isRefused ? (reasonOf(error) ?? 'refused') : '',
    error?.message ?? '',
  ];
  return cells.map((cell) => csvCell(String(cell))).join(',');
}

function csvCell(text: string): string {
  const shown = visible(text);
  return /[",\r\n]/.test(shown) ? `"${shown.replaceAll('"', '""')}"` : shown;
}

function resultLine(result: BatchResult): string {
  const { index, line, clientMsgNo, messageSeq, duplicate, error } = result;
  const key = `${paint('dim', String(index))}\t${plain(clientMsgNo)}`;
  if (error === undefined) return `${key}\t${messageSeq}${duplicate ? '\tduplicate' : ''}`;
  const { channelType, channelId, fromUid } = result;
  const recipient = plain(`${fromUid} to ${channelTypeName(channelType)} ${channelId}`);
  const atLine = line === 0 ? '' : `\tline ${line}`;
  return `${key}${atLine}\t${recipient}\t${paint('yellow', plain(reasonOf(error) ?? 'refused'))}\t${plain(error.message)}`;
}
