// Receives webhooks (https://www.standardwebhooks.com): verifies each delivery and prints its messages once.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Webhook } from 'standardwebhooks';

interface Delivery {
  readonly type: string;
  readonly data: { readonly messages?: readonly { channel_id: string; message_seq: number; payload: string }[] };
}

const webhook = new Webhook(process.env.WEBHOOK_SECRET ?? '');
/** Deliveries repeat when an answer is lost. A real receiver keeps these ids where it keeps its data. */
const seenIds = new Set<string>();

const server = createServer(async (request, response) => {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  let delivery: Delivery;
  try {
    // Throws when the signature is wrong or the timestamp is more than five minutes off.
    delivery = webhook.verify(Buffer.concat(chunks), request.headers as Record<string, string>) as Delivery;
  } catch {
    console.log('refused: the signature does not match');
    response.writeHead(401).end();
    return;
  }
  const id = String(request.headers['webhook-id']);
  if (!seenIds.has(id))
    for (const { channel_id, message_seq, payload } of delivery.data.messages ?? [])
      console.log(`received ${channel_id} ${message_seq} ${Buffer.from(payload, 'base64')}`);
  seenIds.add(id);
  // Only 2xx confirms a delivery. Answer within the service's timeout; do long work after the answer.
  response.writeHead(204).end();
});
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  console.log(`listening at http://127.0.0.1:${port}/`);
});
