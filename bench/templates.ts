import { create, toBinary } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import {
  MessageService,
  type SendBatchRequest,
  SendBatchRequestSchema,
} from '../gen/sendbatch/v1/message_service_pb.ts';
import { TemplateFormat } from '../gen/sendbatch/v1/template_service_pb.ts';
import type { Machine } from './machine.ts';
import { cpuOfTree } from './machine.ts';
import { median, spread } from './measure.ts';

const messages = 1000;
const batches = 20;
/** A marketing message of about 500 bytes, in which two words differ. */
const body = (name: string, code: string) =>
  JSON.stringify({
    type: 1,
    title: 'Your order is on its way',
    content: `Dear ${name}, thank you for your order. ${'We hope that everything is as you wished it to be. '.repeat(7)}Your code is ${code}.`,
    link: 'https://shop.example/orders',
  });

/** Measures the same messages written out, and rendered from one template of the request. */
export async function spelledAgainstTemplate(
  machine: Machine,
  url: string,
  pid: number,
  pairs: number,
): Promise<string> {
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  const templates = [{ name: 'order', format: TemplateFormat.JSON, body: body('{{ name }}', '{{ code }}') }];
  const requestOf = (round: number, batch: number, isTemplate: boolean): SendBatchRequest =>
    create(SendBatchRequestSchema, {
      ...(isTemplate ? { templates } : {}),
      messages: Array.from({ length: messages }, (_, index) => {
        const [name, code] = [`customer ${index}`, String(100_000 + index)];
        const common = {
          channelType: ChannelType.GROUP,
          channelId: `channel-${(batch * messages + index) % 100_000}`,
          fromUid: 'bench',
          clientMsgNo: `${isTemplate ? 't' : 's'}-${round}-${batch}-${index}`,
        };
        return isTemplate
          ? { ...common, template: { name: 'order', variables: { name, code } } }
          : { ...common, payload: new TextEncoder().encode(body(name, code)) };
      }),
    });
  const bytesOf = (isTemplate: boolean) => toBinary(SendBatchRequestSchema, requestOf(0, 0, isTemplate)).length;
  const cpu = { spelled: [] as number[], template: [] as number[] };
  const times = { spelled: [] as number[], template: [] as number[] };
  for (let round = -1; round < pairs; round++) {
    await machine.reset();
    for (const side of round % 2 === 0 ? (['spelled', 'template'] as const) : (['template', 'spelled'] as const)) {
      const requests = Array.from({ length: batches }, (_, batch) => requestOf(round, batch, side === 'template'));
      const before = { cpu: cpuOfTree(pid), at: performance.now() };
      for (const request of requests) {
        const { acceptedCount } = await client.sendBatch(request);
        if (acceptedCount !== messages) throw new Error(`${acceptedCount} of ${messages} were accepted`);
      }
      // The first round warms up.
      if (round < 0) continue;
      times[side].push((performance.now() - before.at) / batches);
      cpu[side].push(((cpuOfTree(pid) - before.cpu) / (batches * messages)) * 1e6);
    }
  }
  await machine.reset();
  const rate = spread(
    times.spelled.map((each, index) => each / (times.template[index] ?? each)),
    2,
  );
  const lines = (['spelled', 'template'] as const).map(
    (side) =>
      `| ${side === 'spelled' ? 'spelled out' : 'from a template'} | ${bytesOf(side === 'template')} | ${median(times[side]).toFixed(1)} | ${median(cpu[side]).toFixed(1)} |`,
  );
  return `| messages | bytes of the request | ms per batch | µs of the service per message |\n|---|---|---|---|\n${lines.join('\n')}\n\n${(bytesOf(false) / bytesOf(true)).toFixed(1)} times fewer bytes; by rate ${rate} of messages written out.`;
}
