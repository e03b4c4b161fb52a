import type { Client } from '@connectrpc/connect';
import type { Command } from 'commander';
import type { ChannelService, ListedUid } from '../../../gen/sendbatch/v1/channel_service_pb.ts';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import { ofChannel } from '../channel-type.ts';
import { type ConnectOptions, calling, connectTo } from '../connect.ts';
import { readText } from '../input/decode.ts';
import { plain, print, printJson } from '../output/output.ts';
import { CommandError, wholeNumber, withExamples } from '../usage.ts';

export const channelAbout = `
Exit codes: 0 success, 1 error.

Examples:
  sendbatch channel create group friends --member alice,bob
  sendbatch channel members add group friends carol dave
  sendbatch channel members add group friends --file uids.txt
  sendbatch channel denylist ls group friends --json
  sendbatch channel messages group friends --newest --limit 10`;

type Rpc = Client<typeof ChannelService>;
type Named = { readonly channelType: ChannelType; readonly channelId: string };

/** A list of uids of a channel, with its RPCs. */
interface List {
  readonly name: string;
  readonly about: string;
  readonly add: (rpc: Rpc, channel: Named, uids: string[]) => Promise<unknown>;
  readonly remove: (rpc: Rpc, channel: Named, uids: string[]) => Promise<unknown>;
  readonly clear: (rpc: Rpc, channel: Named) => Promise<unknown>;
  readonly page: (
    rpc: Rpc,
    page: Named & { pageSize: number; pageToken: string },
  ) => Promise<{ entries: ListedUid[]; nextPageToken: string }>;
}

const lists: readonly List[] = [
  {
    name: 'members',
    about: 'uids that may send and read',
    add: (rpc, channel, subscribers) => rpc.addMembers({ ...channel, subscribers }),
    remove: (rpc, channel, subscribers) => rpc.removeMembers({ ...channel, subscribers }),
    clear: (rpc, channel) => rpc.removeAllMembers(channel),
    page: (rpc, page) => rpc.listMembers(page),
  },
  {
    name: 'denylist',
    about: 'uids that may not send',
    add: (rpc, channel, uids) => rpc.addToDenylist({ ...channel, uids }),
    remove: (rpc, channel, uids) => rpc.removeFromDenylist({ ...channel, uids }),
    clear: (rpc, channel) => rpc.clearDenylist(channel),
    page: (rpc, page) => rpc.listDenylist(page),
  },
  {
    name: 'allowlist',
    about: 'the only uids that may send, unless the list is empty',
    add: (rpc, channel, uids) => rpc.addToAllowlist({ ...channel, uids }),
    remove: (rpc, channel, uids) => rpc.removeFromAllowlist({ ...channel, uids }),
    clear: (rpc, channel) => rpc.clearAllowlist(channel),
    page: (rpc, page) => rpc.listAllowlist(page),
  },
];

interface ChangeOptions extends ConnectOptions {
  readonly file?: string;
  readonly all?: boolean;
}

/** Adds the commands members, denylist and allowlist, each with add, remove and ls. */
export function addLists(channel: Command): void {
  for (const list of lists) {
    const name = `sendbatch channel ${list.name}`;
    const command = channel.command(list.name).description(`${list.about}: add, remove, ls`);
    withExamples(command, [`${name} add group friends carol`, `${name} ls group friends`]);
    const add = ofChannel(command.command('add').description('Adds uids.'))
      .argument('[uids...]')
      .option('--file <file>', 'file of uids, one per line; - is standard input');
    withExamples(calling(add), [
      `${name} add group friends carol dave`,
      `${name} add group friends --file uids.txt`,
    ]).action(async (channelType: ChannelType, channelId: string, uids: string[], options: ChangeOptions) => {
      await change(options, uids, 'added', (rpc, chosen) => list.add(rpc, { channelType, channelId }, chosen));
    });
    const remove = ofChannel(command.command('remove').alias('rm').description('Removes uids.'))
      .argument('[uids...]')
      .option('--file <file>', 'file of uids, one per line; - is standard input')
      .option('--all', 'remove all uids');
    withExamples(calling(remove), [`${name} remove group friends carol`, `${name} remove group friends --all`]).action(
      async (channelType: ChannelType, channelId: string, uids: string[], options: ChangeOptions) => {
        if (!options.all)
          return await change(options, uids, 'removed', (rpc, chosen) =>
            list.remove(rpc, { channelType, channelId }, chosen),
          );
        if (uids.length > 0 || options.file !== undefined)
          throw new CommandError('--all and uids must not be set together');
        await list.clear(connectTo(options).channels, { channelType, channelId });
        await print(options.json ? '{"removed":"all"}' : 'all removed');
      },
    );
    const ls = ofChannel(command.command('ls').alias('list').description('Prints the uids, one per line.')).option(
      '--limit <n>',
      'at most n uids',
      wholeNumber(1, Number.MAX_SAFE_INTEGER),
    );
    withExamples(calling(ls), [`${name} ls group friends`, `${name} ls group friends --json | jq -r .uid`]).action(
      async (channelType: ChannelType, channelId: string, options: ConnectOptions & { limit?: number }) => {
        await printList(list, { channelType, channelId }, options);
      },
    );
  }
}

/** Limit of the service for uids per call. */
const callUids = 10_000;

async function change(
  options: ChangeOptions,
  named: readonly string[],
  done: 'added' | 'removed',
  call: (rpc: Rpc, uids: string[]) => Promise<unknown>,
): Promise<void> {
  const uids = uidsOf(named, options.file);
  if (uids.length === 0) throw new CommandError('no uids given: list them, or use --file');
  const { channels } = connectTo(options);
  for (let from = 0; from < uids.length; from += callUids) await call(channels, uids.slice(from, from + callUids));
  // The service does not report which uids were listed before, so the text describes the state
  // afterwards.
  const text = `${uids.length} ${uids.length === 1 ? 'uid' : 'uids'} ${done}`;
  await print(options.json ? JSON.stringify({ [done]: uids.length }) : text);
}

/** Uids of the command line and of a file, without duplicates. */
export function uidsOf(named: readonly string[], file: string | undefined): string[] {
  const uids = new Set(named);
  if (file !== undefined) {
    for (const line of readText(file).split(/\r\n|\n|\r/)) if (line.trim() !== '') uids.add(line.trim());
  }
  return [...uids];
}

async function printList(list: List, channel: Named, options: ConnectOptions & { limit?: number }): Promise<void> {
  const { channels } = connectTo(options);
  let left = options.limit ?? Number.POSITIVE_INFINITY;
  let pageToken = '';
  do {
    const page = await list.page(channels, { ...channel, pageSize: Math.min(left, callUids), pageToken });
    for (const { uid, createdAt, updatedAt } of page.entries) {
      const times = { created_at: Number(createdAt), updated_at: Number(updatedAt) };
      if (options.json) await printJson(JSON.stringify({ uid, ...times }));
      else await print(plain(uid));
    }
    left -= page.entries.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== '' && left > 0);
}
