import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import { createDatabase, openStore, type TestDatabase } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { openClients } from '../support/protocols.ts';

type Line = Record<string, unknown> & { msg: string };

const draft = (key: string, more: object = {}) => ({
  from_uid: 'u',
  channel_id: 'logged',
  channel_type: 2,
  client_msg_no: key,
  payload: 'c2VjcmV0LXBheWxvYWQ=',
  ...more,
});

describe('the access log (ACCESS_LOG=on)', () => {
  let database: TestDatabase;
  let service: ServiceProcess;
  let lines: AsyncIterator<string>;
  let key: string;
  let keyId: string;
  before(async () => {
    database = await createDatabase();
    const db = openStore(database.url);
    const created = await createKeys(db).create({ name: 'logged', scopes: ['send', 'read'] });
    await db.destroy();
    key = created.key;
    keyId = created.keyId;
    service = await spawnService({ DATABASE_URL: database.url, AUTH: 'on', ACCESS_LOG: 'on' });
    if (service.child.stdout === null) assert.fail('no stdout');
    lines = createInterface(service.child.stdout)[Symbol.asyncIterator]();
  });
  after(async () => {
    await service.end('SIGTERM');
    await database.drop();
  });

  /** Returns the next access log line of a call. */
  async function nextCall(): Promise<Line> {
    for (;;) {
      const { value, done } = await lines.next();
      if (done) assert.fail(`no more lines: ${service.output()}`);
      const line = JSON.parse(value) as Line;
      if (line.msg === 'call') return line;
    }
  }
  const bearer = () => ({ authorization: `Bearer ${key}` });

  test('the access log names caller, method and protocol of a call and counts its messages by outcome', async () => {
    const { post } = jsonCaller(service.url, { ...bearer(), 'x-request-id': 'asked-1' });
    await post('/message/sendbatch', [draft('1'), draft('2')]);
    const { time, durationMs, ...line } = await nextCall();
    assert.deepEqual(line, {
      level: 'info',
      requestId: 'asked-1',
      method: 'sendbatch.v1.MessageService/SendBatch',
      protocol: 'json',
      code: 'OK',
      caller: `key ${keyId}`,
      messages: 2,
      accepted: 2,
      duplicates: 0,
      refused: 0,
      msg: 'call',
    });
    assert.ok(typeof durationMs === 'number' && durationMs > 0 && Number.isFinite(Date.parse(String(time))));
    await post('/message/sendbatch', [draft('1'), draft('2', { payload: 'eQ==' }), draft('3')]);
    const second = await nextCall();
    assert.deepEqual([second.accepted, second.duplicates, second.refused], [1, 1, 1]);
    await post('/message/sendbatch?mode=atomic', [draft('2', { payload: 'eQ==' })]);
    const third = await nextCall();
    assert.deepEqual([third.code, third.reason, third.messages], ['ALREADY_EXISTS', 'CLIENT_MSG_NO_REUSED', 1]);
  });

  test('the access log has a line for accepted and refused calls on every protocol', async () => {
    const protocols = ['grpc', 'grpc', 'grpc-web', 'connect', 'connect', 'json'];
    for (const [index, client] of openClients(service.url).entries()) {
      const messages: MessageInitShape<typeof MessageDraftSchema>[] = [
        { channelId: 'c', channelType: 2, fromUid: 'u', payload: Buffer.from('x') },
      ];
      await client.send({ messages }, { headers: bearer() });
      const { protocol, code, messages: count } = await nextCall();
      assert.deepEqual([protocol, code, count], [protocols[index], 'OK', 1], client.name);
      await client.send({ messages });
      const refused = await nextCall();
      assert.deepEqual(
        [refused.protocol, refused.code, refused.reason],
        [protocols[index], 'UNAUTHENTICATED', 'CREDENTIAL_MISSING'],
        client.name,
      );
      client.close();
    }
  });

  test('the access log names the caller of a call that lacks the scope', async () => {
    await jsonCaller(service.url, bearer()).post('/channel', { channel_id: 'c', channel_type: 2 });
    const { code, reason, caller } = await nextCall();
    assert.deepEqual([code, reason, caller], ['PERMISSION_DENIED', 'SCOPE_MISSING', `key ${keyId}`]);
  });

  test('the access log has a line for a live tail when it ends, with the request id of its answer', async () => {
    const leave = new AbortController();
    const path = `/v1/channels/2/logged/events?access_token=${key}`;
    const tail = await fetch(service.url + path, { signal: leave.signal });
    leave.abort();
    const line = await nextCall();
    assert.deepEqual(
      [line.protocol, line.method, line.code, line.requestId],
      ['sse', 'sendbatch.v1.MessageService/Subscribe', 'CANCELLED', tail.headers.get('x-request-id')],
    );
  });

  test('the log has a line without the query for a request that is rejected before it is a call', async () => {
    const headers = { 'x-request-id': 'odd-1', ...bearer() };
    await fetch(`${service.url}/message/send?access_token=${key}`, { method: 'POST', body: '{', headers });
    await fetch(`${service.url}/nowhere?access_token=${key}`, { headers });
    for (const [httpMethod, path, reason] of [
      ['POST', '/message/send', 'malformed'],
      ['GET', '/nowhere', 'not_found'],
    ]) {
      const { time: _, ...line } = JSON.parse((await lines.next()).value) as Line;
      assert.deepEqual(line, { level: 'info', httpMethod, path, requestId: 'odd-1', reason, msg: 'request rejected' });
    }
  });

  test('the log contains neither payloads nor credentials', () => {
    for (const secret of [key, 'secret-payload', 'c2VjcmV0', 'access_token', 'Bearer'])
      assert.ok(!service.output().includes(secret), secret);
  });
});

test('calls are not logged without ACCESS_LOG=on', async () => {
  const database = await createDatabase();
  const service = await spawnService({ DATABASE_URL: database.url });
  await jsonCaller(service.url).post('/message/send', draft('1'));
  await service.end('SIGTERM');
  assert.doesNotMatch(service.output(), /"msg":"call/);
  await database.drop();
});
