import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { resolveColumns } from '../../../src/cli/input/columns.ts';
import { createDrafts } from '../../../src/cli/input/drafts.ts';
import { parseExactly } from '../../../src/message-files/exact-json.ts';
import type { Mapping } from '../../../src/message-files/mapping.ts';

const plain: Mapping = {
  defaults: {},
  columns: {},
  ignored: [],
  template: undefined,
  payloadBase64: false,
  takesSendAt: false,
};
const needed = ['from_uid', 'channel_id', 'channel_type', 'payload'];
const template = { name: 'welcome', version: 1 };

describe('columns of a table', () => {
  test('columns fill the fields of their names; an option applies to all rows unless --column names the column', () => {
    const { columns, notes } = resolveColumns([...needed, 'tag_key'], { ...plain, defaults: { from_uid: 'news' } });
    assert.equal(columns.from_uid, undefined);
    assert.equal(columns.tag_key, 'tag_key');
    assert.match(
      notes.join(),
      /column from_uid is not read, because --from-uid sets it for all rows \(--column from_uid=from_uid/,
    );
    const named = resolveColumns(needed, {
      ...plain,
      defaults: { from_uid: 'news' },
      columns: { from_uid: 'from_uid' },
    });
    assert.deepEqual([named.columns.from_uid, named.notes], ['from_uid', []]);
  });

  test('a column that resembles a field name, and is none, is refused with the way out', () => {
    for (const [name, words] of [
      ['send_at', /send_at.*batch submit accepts it/],
      ['Send At', /batch submit accepts it/],
      ['template', /--template/],
      ['variables', /every column is a variable/],
      ['subscribers', /NDJSON/],
      ['header', /red_dot/],
      ['clientMsgNo', /looks like client_msg_no.*--column client_msg_no=clientMsgNo/],
      ['client msg no', /looks like client_msg_no.*'client msg no'/],
      ['expires', /looks like expire/],
      ['tag_kye', undefined],
      ['stream_num', /looks like stream_no/],
      ['reddot', /looks like red_dot/],
      ['no_persit', /looks like no_persist/],
    ] as const) {
      const check = () => resolveColumns([...needed, name], plain);
      if (words !== undefined) assert.throws(check, words, name);
      assert.deepEqual(resolveColumns([...needed, name], { ...plain, ignored: [name] }).notes, [], name);
    }
    for (const [name, field] of [
      ['chanel_id', 'channel_id'],
      ['from_uuid', 'from_uid'],
      ['payloads', 'payload'],
    ] as const) {
      const header = [...needed.filter((each) => each !== field), name];
      assert.throws(() => resolveColumns(header, plain), new RegExp(`${field}|payload`));
    }
    const scheduled = resolveColumns([...needed, 'send_at'], { ...plain, takesSendAt: true });
    assert.equal(scheduled.columns.send_at, 'send_at');
  });

  test('other columns are variables of a template, and are named when there is no template', () => {
    assert.match(resolveColumns([...needed, 'email', 'name'], plain).notes.join(), /not sent: email, name/);
    const mapping = { ...plain, template, defaults: { from_uid: 'news', channel_type: '1' } };
    assert.deepEqual(resolveColumns(['channel_id', 'email', 'gender', 'payload'], mapping).notes, []);
    assert.throws(() => resolveColumns(['channel_id', 'send_at'], mapping), /batch submit/);
    assert.throws(() => resolveColumns(['channel_id', 'x'], { ...mapping, ignored: ['y'] }), /no column "y" to ignore/);
  });
});

describe('lines of NDJSON', () => {
  const line = (more: object) => ({
    line: 1,
    text: '',
    content: { json: JSON.stringify({ from_uid: 'u', channel_id: 'c', channel_type: 2, payload: 'SGk=', ...more }) },
  });
  const draftOf = (mapping: Partial<Mapping>, more: object) => createDrafts({ ...plain, ...mapping })(line(more), {});

  test('options fill the missing fields of an NDJSON line, and refuse a line with another value', () => {
    const filled = draftOf({ defaults: { tag_key: 't', red_dot: '1', expire: '5' } }, { header: { no_persist: 1 } });
    assert.ok(typeof filled !== 'string', String(filled));
    assert.deepEqual([filled.tagKey, filled.expire, filled.header?.redDot, filled.header?.noPersist], ['t', 5, 1, 1]);
    assert.match(
      String(draftOf({ defaults: { from_uid: 'news' } }, { from_uid: 'system' })),
      /from_uid is "system".*"news"/,
    );
    assert.match(String(draftOf({ defaults: { red_dot: '1' } }, { header: { redDot: 0 } })), /red_dot is 0/);
    assert.equal(
      typeof draftOf({ defaults: { channel_type: '2', from_uid: 'u' } }, { channel_type: 'group' }),
      'object',
    );
  });

  test('an NDJSON line with a value that would be changed or dropped is refused by the name of the field', () => {
    for (const [text, words] of [
      ['{"a":9007199254740993}', /^Error: a: 9007199254740993 is above 2\^53-1/],
      ['{"template":{"variables":{"ids":[1,-9007199254740993]}}}', /template\.variables\.ids\[1\]: -9007199254740993/],
      ['{"a":1e400}', /a: 1e400 is too large/],
      ['{"a":{"b":1,"\\u0062":2}}', /a\.b occurs twice/],
      ['[{"a":1},{"a":1,"a":1}]', /\[1\]\.a occurs twice/],
    ] as const)
      assert.throws(() => parseExactly(text), words);
    for (const text of [
      '{"a":9007199254740991,"b":"9007199254740993","c":{"a":"\\"{"},"d":[{},{"a":1},{"a":1}]}',
      '1',
      'null',
    ])
      assert.deepEqual(parseExactly(text), JSON.parse(text));
    const later = { send_at: '2027-02-29T12:00:00Z' };
    assert.match(String(draftOf({ takesSendAt: true }, later)), /^send_at: .* does not exist/);
    assert.match(String(draftOf({}, { send_at: '2027-02-28T12:00:00Z' })), /^send_at: .*batch submit/);
    assert.match(String(draftOf({}, { chanel_id: 'x' })), /chanel_id/);
  });
});
