// A page that sends to a channel and shows its messages, with Connect-Web and no other library.
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';

const baseUrl = new URLSearchParams(location.search).get('service') ?? 'http://127.0.0.1:5001';
const client = createClient(MessageService, createConnectTransport({ baseUrl }));
const channel = { channelType: ChannelType.GROUP, channelId: 'browser' };

const form = document.querySelector('form') as HTMLFormElement;
const status = document.querySelector('p') as HTMLElement;
const list = document.querySelector('ol') as HTMLElement;

/** One key until a message is stored: a second click after a lost answer does not store it twice. */
let clientMsgNo: string = crypto.randomUUID();
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const payload = new TextEncoder().encode(String(new FormData(form).get('text')));
  const draft = { ...channel, fromUid: 'system', clientMsgNo, payload };
  try {
    const { results } = await client.sendBatch({ messages: [draft] });
    const refusal = results[0]?.error;
    status.textContent = refusal === undefined ? `stored as ${results[0]?.messageSeq}` : `refused: ${refusal.reason}`;
    clientMsgNo = crypto.randomUUID();
    form.reset();
  } catch (error) {
    status.textContent = ConnectError.from(error).message;
  }
});

/** Follows the channel, and continues after the last message that it has when the connection is lost. */
async function follow(): Promise<never> {
  for (let afterSeq = 0n; ; ) {
    try {
      for await (const { frame } of client.subscribe({ channels: [{ ...channel, afterSeq }] })) {
        if (frame.case !== 'message') continue;
        list.append(
          Object.assign(document.createElement('li'), { textContent: new TextDecoder().decode(frame.value.payload) }),
        );
        afterSeq = frame.value.messageSeq;
      }
    } catch (error) {
      const { code, message } = ConnectError.from(error);
      status.textContent = message;
      if (code !== Code.Unavailable && code !== Code.Unknown) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
await follow();
