// Sends 2,500 messages with `sendbatch/client`, prints what was refused, and follows the channel.
import { createConnectTransport } from '@connectrpc/connect-node';
import { ChannelType, createSendbatch, type Draft, reasonOf } from 'sendbatch/client';

const baseUrl = process.env.SENDBATCH_URL ?? 'http://127.0.0.1:5001';
const sendbatch = createSendbatch({ transport: createConnectTransport({ baseUrl, httpVersion: '2' }) });
const channel = { channelType: ChannelType.GROUP, channelId: 'node-client' };

// Own keys make the whole program safe to run again: it prints the same numbers.
const drafts: Draft[] = Array.from({ length: 2500 }, (_, index) => ({
  ...channel,
  clientMsgNo: `node-${index}`,
  fromUid: 'system',
  payload: new TextEncoder().encode(`message ${index}`),
}));
// The channel was never created, so only system users may send to it.
drafts.push({ ...channel, clientMsgNo: 'node-alice', fromUid: 'alice', payload: new TextEncoder().encode('may I?') });

// One result per message, in order, over as many calls as the limits of the service ask for.
const results = await sendbatch.send(drafts);
for (const { clientMsgNo, error } of results)
  if (error !== undefined) console.log('refused', clientMsgNo, reasonOf(error));
console.log('stored', results.filter(({ error }) => error === undefined).length);

// Resumes by itself when the connection or the service goes away.
const lastSeq = BigInt(Math.max(...results.map(({ messageSeq }) => Number(messageSeq))));
for await (const message of sendbatch.tail({ channels: [{ ...channel, afterSeq: lastSeq - 2n }] })) {
  console.log('received', message.messageSeq, new TextDecoder().decode(message.payload));
  if (message.messageSeq === lastSeq) break;
}
