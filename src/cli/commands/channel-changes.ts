import { readFileSync } from 'node:fs';
import { toJsonString } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  EditMessageResponseSchema,
  RecallMessagesResponseSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { ofChannel } from '../channel-type.ts';
import { type ConnectOptions, calling, connectTo } from '../connect.ts';
import { plain, print, printJson, safeJson } from '../output/output.ts';
import { CommandError, fromOne, listed, listedNumbers, wholeNumber, withExamples } from '../usage.ts';

interface RecallOptions extends ConnectOptions {
  readonly seq?: number[];
  readonly id?: number[];
  readonly key?: string[];
  readonly uid?: string;
}

interface EditOptions extends ConnectOptions {
  readonly text?: string;
  readonly file?: string;
  readonly revision?: number;
  readonly uid?: string;
}

/** Adds `channel recall` and `channel edit`. */
export function addChanges(channel: Command): void {
  const recalling = ofChannel(
    channel
      .command('recall')
      .description('Takes messages back: their content is erased for every reader; numbers and keys stay.'),
  )
    .option('--seq <seq>', 'a sequence, or several separated by commas; repeatable', listedNumbers)
    .option('--id <id>', 'a message id, or several separated by commas; repeatable', listedNumbers)
    .option('--key <key>', 'a client_msg_no, or several separated by commas; repeatable', listed)
    .option('--uid <uid>', 'only messages from this user');
  withExamples(
    calling(recalling),
    ['sendbatch channel recall group friends --seq 17,18', 'sendbatch channel recall person alice@bob --key order-7'],
    '0 all are recalled, 1 some are not',
  ).action(recall);

  const editing = ofChannel(channel.command('edit').description('Replaces the content of a message.'))
    .argument('<seq>', 'the sequence of the message', fromOne)
    .option('--text <text>', 'the new content')
    .option('--file <file>', 'file with the new content; - is standard input')
    .option('--revision <n>', 'edit only if the message has this revision', wholeNumber(0, 2 ** 32 - 1))
    .option('--uid <uid>', 'only a message from this user');
  withExamples(calling(editing), ['sendbatch channel edit group friends 17 --text "Doors open at 7 pm"']).action(edit);
}

async function recall(channelType: ChannelType, channelId: string, options: RecallOptions): Promise<void> {
  const { seq = [], id = [], key = [], uid = '' } = options;
  if (seq.length + id.length + key.length === 0) throw new CommandError('name the messages with --seq, --id or --key');
  const answer = await connectTo(options).client.rpc.recallMessages({
    channelType,
    channelId,
    messageSeqs: seq.map(BigInt),
    messageIds: id.map(BigInt),
    clientMsgNos: key,
    uid,
  });
  const refused = answer.results.filter((result) => result.error !== undefined);
  if (options.json) await printJson(safeJson(toJsonString(RecallMessagesResponseSchema, answer)));
  else {
    const before = answer.results.length - refused.length - answer.recalledCount;
    await print(`${answer.recalledCount} recalled${before > 0 ? `, ${before} had been recalled before` : ''}`);
    for (const { error } of refused) console.error(`sendbatch: ${plain(`${error?.reason}: ${error?.message}`)}`);
  }
  if (refused.length > 0) process.exitCode = 1;
}

async function edit(
  channelType: ChannelType,
  channelId: string,
  seq: number,
  { text, file, revision, uid = '', ...options }: EditOptions,
): Promise<void> {
  if ((text === undefined) === (file === undefined))
    throw new CommandError('give the new content with --text or --file');
  const payload = text === undefined ? readFileSync(file === '-' ? 0 : (file ?? '')) : Buffer.from(text);
  const answer = await connectTo(options).client.rpc.editMessage({
    channelType,
    channelId,
    messageSeq: BigInt(seq),
    payload,
    uid,
    ...(revision === undefined ? {} : { expectedRevision: revision }),
  });
  if (options.json) return await printJson(safeJson(toJsonString(EditMessageResponseSchema, answer)));
  const revisions = answer.message?.revision ?? 0;
  await print(answer.unchanged ? `unchanged, revision ${revisions}` : `edited, revision ${revisions}`);
}
