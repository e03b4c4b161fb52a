import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { writeXlsx } from 'hucre/xlsx';
import { ComposeEngine, type FileInfo, type ReadChoice } from '../../../console/compose/engine/engine.ts';
import { detectEncoding } from '../../../console/compose/files/encoding.ts';
import { guessColumns } from '../../../console/compose/files/guess.ts';
import { FileProblem } from '../../../console/compose/files/problem.ts';
import { unpackedBytes } from '../../../console/compose/files/workbook.ts';
import { toGbk } from '../../support/gbk.ts';

// cspell:ignore rgen Stra nchen

type Bytes = Uint8Array<ArrayBuffer>;

async function read(content: string | Uint8Array, choice: ReadChoice = {}) {
  const engine = new ComposeEngine(() => () => Promise.reject(new Error('not used')));
  const info = await engine.open(new Blob([content as Bytes]), choice, () => {});
  return { engine, info, cells: engine.rows(0, 100).map(({ cells }) => cells) };
}

function codeOf(content: string | Uint8Array, choice?: ReadChoice): Promise<unknown> {
  return read(content, choice).then(
    () => undefined,
    (error: unknown) => (error instanceof FileProblem ? error.problem.code : error),
  );
}

const latin = (text: string) => Buffer.from(text, 'latin1');
const shapeOf = ({ encoding, delimiter, hasHeader, columns }: FileInfo) => [
  encoding?.encoding,
  delimiter,
  hasHeader,
  columns,
];

describe('files of the page Compose', () => {
  test('the encoding is detected by mark, validity and the bytes of Chinese and Western text', async () => {
    const detected = async (bytes: Uint8Array) => await detectEncoding(new Blob([bytes as Bytes]));
    const western = 'id;name;city\n1;J\xfcrgen Stra\xdfe;M\xfcnchen \x80 5\n2;Zo\xeb;Orl\xe9ans \x96 \x93caf\xe9\x94\n';
    for (const [bytes, encoding, hasMark = false] of [
      [Buffer.from('id,name\n1,张三\n'), 'utf-8'],
      [Buffer.from('\ufeffid,name\n1,张三\n'), 'utf-8', true],
      [toGbk('编号,姓名\n1,张三丰\n2,李小龙，您好！\n'), 'gb18030'],
      [Buffer.concat([toGbk('姓名\n'), Buffer.from('9439fc36', 'hex')]), 'gb18030'],
      [latin(western), 'windows-1252'],
      [Buffer.from('\ufeffid\t名', 'utf16le'), 'utf-16le', true],
      [Buffer.from('\ufeffid\t名', 'utf16le').swap16(), 'utf-16be', true],
      [Buffer.from('id,name\n1,Ann\n', 'utf16le'), 'utf-16le'],
      [Buffer.from('plain'), 'utf-8'],
      // The first bytes that are not ASCII may come late.
      [Buffer.concat([Buffer.alloc(300_000, 'a,b\n'), toGbk('张三,李四\n')]), 'gb18030'],
    ] as const)
      assert.deepEqual(await detected(bytes), { encoding, hasMark }, bytes.subarray(0, 20).toString('latin1'));
  });

  test('delimiter and header line are detected, and can be replaced', async () => {
    for (const [text, shape] of [
      ['uid,name\n1,Ann\n', ['utf-8', ',', true, ['uid', 'name']]],
      ['uid;price\n1;1,5\n2;2,5\n', ['utf-8', ';', true, ['uid', 'price']]],
      ['uid\tname\n1\ta, b\n', ['utf-8', '\t', true, ['uid', 'name']]],
      ['sep=|\nuid|name\n1|a\n', ['utf-8', '|', true, ['uid', 'name']]],
      ['13800000001,Ann\n13800000002,Ben\n', ['utf-8', ',', false, ['column_1', 'column_2']]],
      ['uid\n1\n', ['utf-8', ',', true, ['uid']]],
      ['uid,,uid\n1,2,3\n', ['utf-8', ',', true, ['uid', 'column_2', 'uid_2']]],
      ['姓名,手机\n张三,138\n', ['utf-8', ',', true, ['姓名', '手机']]],
    ] as const)
      assert.deepEqual(shapeOf((await read(text)).info), shape, text);
    const raw = await read('uid,name\n1,Ann\n', { hasHeader: false, delimiter: ';' });
    assert.deepEqual(raw.cells, [['uid,name'], ['1,Ann']]);
  });

  test('cells keep every character; rows that cannot be read are named with their line', async () => {
    const { info, cells, engine } = await read(
      'uid,name\r\n007,"Ann ""B"" \nC"\r\n12345678901234567890, x \r\n,\r\n3,a,b\r\n4,x"y\r\n5,Eve\r\n',
    );
    assert.deepEqual(cells, [
      ['007', 'Ann "B" \nC'],
      ['12345678901234567890', ' x '],
      ['5', 'Eve'],
    ]);
    assert.deepEqual(
      engine.rows(0, 9).map(({ line }) => line),
      [2, 4, 8],
    );
    assert.equal(info.blankRows, 1);
    assert.deepEqual(
      info.faults.map(({ line, problem }) => [line, problem]),
      [
        [6, { code: 'wrongColumns', values: { expected: 2, actual: 3 } }],
        [7, { code: 'badQuote' }],
      ],
    );
    const open = await read('uid,name\n1,a\n2,"never closed\n3,b\n');
    assert.deepEqual([open.cells, open.info.end?.line, open.info.end?.problem.code], [[['1', 'a']], 3, 'openQuote']);
    const wrong = await read(latin('uid,name\n1,a\n2,M\xfcller\n'), { encoding: 'utf-8' });
    assert.deepEqual([wrong.info.end?.line, wrong.info.end?.problem.code], [3, 'badBytes']);
  });

  test('any table in any offered encoding is read as it was written', async () => {
    const cell = fc.string({ unit: fc.constantFrom(...'aé"\n,;\t 你好€') }).map((text) => `x${text}`);
    const table = fc.array(fc.tuple(cell, cell), { minLength: 1, maxLength: 20 });
    const encoders = {
      'utf-8': (text: string) => Buffer.from(text),
      gb18030: (text: string) => toGbk(text.replaceAll('€', '￥')),
      'utf-16le': (text: string) => Buffer.from(text, 'utf16le'),
      'windows-1252': (text: string) => latin(text.replace(/[你好]/g, 'z').replaceAll('€', '\x80')),
    };
    await fc.assert(
      fc.asyncProperty(
        table,
        fc.constantFrom(...',;\t'),
        fc.constantFrom(...Object.keys(encoders)),
        async (rows, delimiter, encoding) => {
          const encode = encoders[encoding as keyof typeof encoders];
          const quoted = rows.map((cells) => cells.map((text) => `"${text.replaceAll('"', '""')}"`).join(delimiter));
          const { cells } = await read(encode(`a${delimiter}b\n${quoted.join('\n')}\n`), {
            encoding,
            delimiter,
            hasHeader: true,
          });
          const changed = (text: string) => new TextDecoder(encoding).decode(encode(text));
          assert.deepEqual(
            cells,
            rows.map((each) => each.map(changed)),
          );
        },
      ),
      { numRuns: 60 },
    );
  });

  test('lines of JSON become a table that loses no digit', async () => {
    const { info, cells } = await read(
      '{"uid":"007","n":1.5,"tags":["a"]}\n{"uid":"8","more":null,"n":true}\n{"n":12345678901234567890}\nnot json\n[1]\n',
    );
    assert.deepEqual([info.kind, info.columns], ['jsonLines', ['uid', 'n', 'tags', 'more']]);
    assert.deepEqual(cells, [
      ['007', '1.5', '["a"]', ''],
      ['8', 'true', '', ''],
    ]);
    assert.deepEqual(
      info.faults.map(({ line, problem }) => [line, problem.code]),
      [
        [3, 'inexact'],
        [4, 'notJson'],
        [5, 'notObject'],
      ],
    );
    const payloads = await read('{"channel_id":"a","payload":"SGVsbG8="}\n');
    assert.equal(payloads.info.payloadIsBase64, true);
  });

  test('a workbook is read as it is shown: leading zeros, dates as ISO, no digit lost', async () => {
    const bytes = await writeXlsx({
      sheets: [
        {
          name: 'People',
          columns: [
            { key: 'phone', header: 'phone' },
            { key: 'zip', header: 'zip', numFmt: '00000' },
            { key: 'price', header: 'price', numFmt: '#,##0.00' },
            { key: 'day', header: 'day', numFmt: 'yyyy-mm-dd' },
            { key: 'at', header: 'at', numFmt: 'yyyy-mm-dd hh:mm' },
            { key: 'id', header: 'id' },
            { key: 'huge', header: 'huge' },
          ],
          data: [
            {
              phone: '0138',
              zip: 123,
              price: 1234.5,
              day: new Date('2026-02-03T00:00Z'),
              at: new Date('2026-02-03T18:30Z'),
              id: 138000000012,
              huge: 1,
            },
            {
              phone: '0139',
              zip: 99,
              price: 0.1 + 0.2,
              day: null,
              at: null,
              id: 0.1 + 0.2,
              huge: 12345678901234567000,
            },
          ],
        },
        { name: 'Other', rows: [['uid'], ['x']] },
      ],
    });
    const { info, cells } = await read(bytes);
    assert.deepEqual([info.kind, info.sheet, info.sheets], ['workbook', 'People', ['People', 'Other']]);
    assert.deepEqual(cells, [['0138', '00123', '1,234.50', '2026-02-03', '2026-02-03T18:30', '138000000012', '1']]);
    assert.deepEqual(
      info.faults.map(({ line, problem }) => [line, problem.code, problem.values?.column]),
      [[3, 'longNumber', 'huge']],
    );
    assert.deepEqual((await read(bytes, { sheet: 'Other' })).cells, [['x']]);
    assert.ok(unpackedBytes(bytes) > bytes.length);
  });

  test('a file that is no table is refused by its kind, and a bomb before it is unpacked', async () => {
    for (const [content, code] of [
      ['', 'empty'],
      ['\n\n', 'noRows'],
      ['%PDF-1.7', 'binary'],
      ['<!doctype html><p>', 'markup'],
      ['[\n{"uid":1}]', 'json'],
      ['{\n"uid":1}', 'json'],
      [Buffer.from('d0cf11e0a1b11ae1', 'hex'), 'binary'],
      [Buffer.from('PK\u0003\u0004..............xl/workbook.xml', 'latin1'), 'damaged'],
    ] as const)
      assert.equal(await codeOf(content), code, String(content));
    const bytes = await writeXlsx({ sheets: [{ name: 'S', rows: [['uid'], ['1']] }] });
    // The unpacked size that the first entry of the directory declares.
    const directory = Buffer.from(bytes).indexOf('PK\u0001\u0002', 0, 'latin1');
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(directory + 24, 0x7fffffff, true);
    assert.equal(await codeOf(bytes), 'tooBig');
  });

  test('columns are guessed by name, in English and Chinese, and each at most once', () => {
    for (const [columns, guess] of [
      [['channel_id', 'from_uid', 'payload'], { channel_id: 'channel_id', from_uid: 'from_uid', payload: 'payload' }],
      [['User ID', 'Name', 'Message'], { channel_id: 'User ID', payload: 'Message' }],
      [['姓名', '手机号', '短信内容', '发送时间'], { channel_id: '手机号', payload: '短信内容', send_at: '发送时间' }],
      [['chanel_id', 'sender'], { channel_id: 'chanel_id', from_uid: 'sender' }],
      [['a', 'b'], {}],
    ] as const)
      assert.deepEqual(guessColumns(columns), guess);
  });
});
