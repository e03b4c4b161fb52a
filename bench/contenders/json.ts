import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf, type Work } from '../workload.ts';
import { createHttpClient, HttpError, inParallel } from './http.ts';

/** Sends over the JSON route: as an array of messages, or as one message to many persons. */
export async function openJson(job: ContenderJob): Promise<Contender> {
  const client = createHttpClient(job.url);
  const batches = batchesOf(job.workload);
  const path = '/message/sendbatch';
  if (job.toPersons) {
    // A dry run creates no channels: every person is sent one message, which is removed before the
    // run.
    await inParallel(oncePerChannel(batches, true), async (works) =>
      client.ask(client.requestOf(path, toPersons(works))),
    );
  } else {
    const dryRuns = batches.map((messages) => client.requestOf(`${path}?validate_only=true`, messages.map(jsonOf)));
    await inParallel(dryRuns, async (request) => client.ask(request));
  }
  const requests = batches.map((messages) =>
    client.requestOf(path, job.toPersons ? toPersons(messages) : messages.map(jsonOf)),
  );
  return {
    sends: requests.length,
    async send(index) {
      const request = requests[index];
      if (request === undefined) throw new Error(`no batch ${index}`);
      const answer = await client.ask(request).catch((error: unknown) => {
        if (job.mayRefuse && error instanceof HttpError && error.status === 503) return undefined;
        throw error;
      });
      if (answer === undefined) return 'refused';
      if (job.toPersons) {
        if (!answer.includes('"fail_uids":[]')) throw new Error(answer.slice(0, 300));
        return { stored: job.workload.batchMessages, duplicates: 0 };
      }
      const results = answer.split('"message_id":').length - 1;
      const duplicates = answer.split('"duplicate":true').length - 1;
      return { stored: results - duplicates, duplicates };
    },
    async close() {
      client.close();
    },
  };
}

const header = { no_persist: 0, red_dot: 1, sync_once: 0 };

/** A message of the array form. */
export function jsonOf(work: Work): object {
  return {
    header,
    client_msg_no: work.clientMsgNo,
    from_uid: work.fromUid,
    channel_id: work.channelId,
    channel_type: work.channelType,
    expire: 0,
    payload: Buffer.from(work.payload).toString('base64'),
  };
}

/** The object form: one payload to a person per message, instead of to the channel of its rank. */
export function toPersons(messages: readonly Work[]): object {
  return {
    header,
    from_uid: 'bench',
    subscribers: personsOf(messages).map(personOf),
    payload: Buffer.from(messages[0]?.payload ?? []).toString('base64'),
  };
}

export const personOf = (number: number) => `person-${number}`;

/** A person per message: the rank of its channel, or the next one that this batch does not have. */
export function personsOf(messages: readonly Work[]): number[] {
  const persons = new Set<number>();
  for (const { rank } of messages) {
    let person = rank;
    while (persons.has(person)) person++;
    persons.add(person);
  }
  return [...persons];
}

/** One message to each channel of all batches, or to each person, in batches of 100. */
export function oncePerChannel(batches: readonly (readonly Work[])[], persons: boolean): Work[][] {
  const each = new Map<number, Work>();
  for (const batch of batches) {
    const ranks = persons ? personsOf(batch) : batch.map(({ rank }) => rank);
    for (const [index, work] of batch.entries()) {
      const rank = ranks[index] ?? 0;
      each.set(rank, { ...work, rank });
    }
  }
  const all = [...each.values()];
  return Array.from({ length: Math.ceil(all.length / 100) }, (_, index) => all.slice(index * 100, index * 100 + 100));
}
