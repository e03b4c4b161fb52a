import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { createPaceMeter } from '../../../console/batches/batch-state.ts';
import { csvLine } from '../../../console/batches/csv.ts';
import { bestFormat, hexOf, jsonOf, previewOf, textOf } from '../../../console/channels/payload.ts';
import { localTimeOf, momentsOf } from '../../../console/i18n/local-time.ts';
import { mergeReasons, totalsOf } from '../../../console/overview/totals.ts';
import { OverviewIntervalSchema } from '../../../gen/client/sendbatch/v1/admin_service_pb.ts';
import { BatchSchema, BatchState } from '../../../gen/client/sendbatch/v1/batch_service_pb.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

describe('payloads in the console', () => {
  test('JSON is indented as it was written, so that long numbers keep their digits', () => {
    const written = '{"id":12345678901234567890,"t":"a\\"{b","list":[1,{}],"none":[]}';
    assert.equal(
      jsonOf(bytes(written)),
      '{\n  "id": 12345678901234567890,\n  "t": "a\\"{b",\n  "list": [\n    1,\n    {}\n  ],\n  "none": []\n}',
    );
    assert.equal(jsonOf(bytes('{"broken"')), undefined);
    assert.equal(jsonOf(bytes('"a text"')), undefined);
    const deep = `${'['.repeat(32_768)}${']'.repeat(32_768)}`;
    assert.equal(jsonOf(bytes(deep)), deep, 'brackets do not become gigabytes of spaces');
  });

  test('a payload is shown as what it is: JSON, text or bytes', () => {
    assert.equal(bestFormat(bytes('{"a":1}')), 'json');
    assert.equal(bestFormat(bytes('你好')), 'text');
    assert.equal(bestFormat(new Uint8Array([0xff, 0])), 'hex');
    assert.equal(textOf(new Uint8Array([0xff])), undefined);
    assert.equal(hexOf(bytes('Hi\n')), `000000  48 69 0a${' '.repeat(39)}  Hi.`);
  });

  test('a preview is one line, also where it cuts a character', () => {
    assert.equal(previewOf(bytes('two\n lines')), 'two lines');
    assert.ok(previewOf(bytes(`${'a'.repeat(399)}你好`)).startsWith('aaa'));
    assert.equal(previewOf(new Uint8Array([0, 1, 0xfe])), '00 01 fe');
  });
});

describe('times in the console', () => {
  test('a local time is one moment, none where clocks go forward, two where they go back', () => {
    assert.deepEqual(momentsOf('2027-01-01T09:00', 'Asia/Shanghai'), [Date.UTC(2027, 0, 1, 1)]);
    assert.deepEqual(momentsOf('2027-03-28T02:30', 'Europe/Berlin'), []);
    assert.deepEqual(momentsOf('2027-10-31T02:30', 'Europe/Berlin'), [
      Date.UTC(2027, 9, 31, 0, 30),
      Date.UTC(2027, 9, 31, 1, 30),
    ]);
    assert.deepEqual(momentsOf('', 'UTC'), []);
    assert.equal(localTimeOf(Date.UTC(2027, 0, 1, 1), 'Asia/Shanghai'), '2027-01-01T09:00');
  });
});

describe('batches in the console', () => {
  test('a cell of CSV is quoted where needed, and no spreadsheet runs it', () => {
    assert.equal(
      csvLine(['a,b', 'say "hi"', '=1+1', 7, 9007199254740993n]),
      `"a,b","say ""hi""",'=1+1,7,9007199254740993\r\n`,
    );
  });

  test('the pace of a batch is that of the last seconds', () => {
    const measure = createPaceMeter();
    const at = (acceptedCount: number) =>
      create(BatchSchema, {
        batchId: 'b',
        state: BatchState.RUNNING,
        messageCount: 10_000,
        acceptedCount,
        startedAt: timestampFromMs(0),
      });
    assert.deepEqual(measure(at(1_000), 10_000), { perSecond: 100, leftMs: 90_000 });
    assert.deepEqual(measure(at(3_000), 12_000), { perSecond: 1_000, leftMs: 7_000 });
    assert.equal(measure(create(BatchSchema, { batchId: 'b', endedAt: timestampFromMs(1) }), 13_000), undefined);
  });
});

describe('the overview of the console', () => {
  test('intervals are summed, and reasons are merged by their counts', () => {
    const intervals = [
      {
        acceptedCount: 90n,
        duplicateCount: 0n,
        refused: [{ reason: 'A', count: 10n }],
        sendCount: 1n,
        sendP50Seconds: 0.01,
      },
      {
        acceptedCount: 50n,
        duplicateCount: 50n,
        refused: [{ reason: 'B', count: 40n }],
        sendCount: 3n,
        sendP50Seconds: 0.03,
      },
    ].map((each) => create(OverviewIntervalSchema, each));
    const totals = totalsOf(intervals, 10_000);
    assert.deepEqual([totals.messages, totals.perSecond, totals.p50Ms], [240, 12, 25]);
    assert.equal(totals.successShare.toFixed(3), '0.792');
    assert.deepEqual(mergeReasons(intervals), [
      { reason: 'B', count: 40 },
      { reason: 'A', count: 10 },
    ]);
  });
});
