import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { writeXlsx } from 'hucre/xlsx';
import { ComposeEngine, type FileInfo, type Network, type ReadChoice } from '../../../console/compose/engine/engine.ts';
import { detectEncoding } from '../../../console/compose/files/encoding.ts';
import { guessColumns } from '../../../console/compose/files/guess.ts';
import { FileProblem } from '../../../console/compose/files/problem.ts';
import { ZipArchive } from '../../../console/compose/files/zip.ts';
import { formFor, planOf } from '../../../console/compose/form.ts';
import { variableOf } from '../../../console/compose/variable.ts';
import { toGbk } from '../../support/gbk.ts';

// cspell:ignore rgen Stra nchen العربية

type Bytes = Uint8Array<ArrayBuffer>;

const noNetwork: Network = {
  createSendBody: () => () => Promise.reject(new Error('not used')),
  isOnline: () => true,
  whenOnline: () => Promise.resolve(),
};

async function read(content: string | Uint8Array, choice: ReadChoice = {}) {
  const engine = new ComposeEngine(noNetwork);
  const info = await engine.open(new Blob([content as Bytes]), choice, () => {});
  return { engine, info, cells: engine.rows(0, 100).map(({ cells }) => cells) };
}

function codeOf(content: string | Uint8Array, choice?: ReadChoice): Promise<unknown> {
  return read(content, choice).then(
    () => undefined,
    (error: unknown) => (error instanceof FileProblem ? error.problem.code : error),
  );
}

/** A ZIP archive of stored entries; `declared`: unpacked sizes other than the true ones. */
function zipOf(files: Readonly<Record<string, string | Uint8Array>>, declared: Readonly<Record<string, number>> = {}) {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [name, content] of Object.entries(files)) {
    const isPacked = typeof content !== 'string';
    const bytes = Buffer.from(content as string);
    const local = Buffer.alloc(30);
    const entry = Buffer.alloc(46);
    local.writeUInt32LE(0x04034b50);
    entry.writeUInt32LE(0x02014b50);
    local.writeUInt16LE(name.length, 26);
    entry.writeUInt16LE(isPacked ? 8 : 0, 10);
    entry.writeUInt32LE(bytes.length, 20);
    entry.writeUInt32LE(declared[name] ?? bytes.length, 24);
    entry.writeUInt16LE(name.length, 28);
    entry.writeUInt32LE(at, 42);
    locals.push(local, Buffer.from(name), bytes);
    directory.push(entry, Buffer.from(name));
    at += 30 + name.length + bytes.length;
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(Object.keys(files).length, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...locals, ...directory, end]);
}

const officeTypes = 'http://schemas.openxmlformats.org/officeDocument/2006/relationships';
const relations = (...targets: readonly (readonly [type: string, target: string])[]) =>
  `<Relationships>${targets.map(([type, target], index) => `<Relationship Id="rId${index + 1}" Type="${officeTypes}/${type}" Target="${target}"/>`).join('')}</Relationships>`;

/** The parts of a workbook with these rows (XML) in its only sheet. */
const workbookOf = (rows: string, { after = '', formats = '' } = {}) => ({
  '[Content_Types].xml': '<Types/>',
  '_rels/.rels': relations(['officeDocument', 'xl/workbook.xml']),
  'xl/workbook.xml': '<workbook><sheets><sheet name="S" r:id="rId1"/></sheets></workbook>',
  'xl/_rels/workbook.xml.rels': relations(
    ['worksheet', 'worksheets/sheet1.xml'],
    ['styles', 'styles.xml'],
    ['sharedStrings', 'sharedStrings.xml'],
  ),
  'xl/sharedStrings.xml':
    '<sst><si><r><rPr/><t xml:space="preserve">a </t></r><r><t>&amp;b_x000D_</t></r><rPh><t>reading</t></rPh></si><si/></sst>',
  'xl/styles.xml': `<styleSheet><numFmts>${formats
    .split(' | ')
    .map((code, index) => `<numFmt numFmtId="${164 + index}" formatCode="${code.replaceAll('"', '&quot;')}"/>`)
    .join('')}</numFmts><cellXfs><xf/>${formats
    .split(' | ')
    .map((_, index) => `<xf numFmtId="${164 + index}"/>`)
    .join('')}</cellXfs></styleSheet>`,
  'xl/worksheets/sheet1.xml': `<?xml version="1.0"?><worksheet><sheetData>${rows}</sheetData>${after}</worksheet>`,
});

/** A row of inline texts. */
const textRow = (texts: readonly string[], attributes = '') =>
  `<row ${attributes}>${texts.map((text) => `<c t="inlineStr"><is><t>${text}</t></is></c>`).join('')}</row>`;

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
    const archive = await ZipArchive.open(new Blob([bytes as Bytes]));
    assert.ok(archive.names.reduce((sum, name) => sum + archive.unpackedBytes(name), 0) > bytes.length);
  });

  test('cells of a workbook are what Excel shows, or their row has a problem', async () => {
    const formats = [
      '[$¥-804]#,##0.00',
      '0"天"',
      'yyyy"年"m"月"d"日"',
      '[h]:mm',
      'h:mm',
      '000-0000',
      'yyyy/m/d h:mm',
      '0.00E+00',
      '0%',
      '[Red]0;[Blue]-0',
    ];
    const number = (value: string, style = 0, more = '') => `<c s="${style}"${more}><v>${value}</v></c>`;
    const cases: readonly (readonly [cell: string, shown: string])[] = [
      ['<c t="s"><v>0</v></c>', 'a &b\r'],
      ['<c t="s"><v>1</v></c>', ''],
      ['<c t="b"><v>1</v></c>', 'TRUE'],
      ['<c t="str"><f>A1&amp;"x"</f><v>cached</v></c>', 'cached'],
      ['<c t="str"><f>IF(1,"")</f><v></v></c>', ''],
      ['<c><f>1+1</f><v>2</v></c>', '2'],
      ['<c t="d"><v>2026-12-24T18:30:00</v></c>', '2026-12-24T18:30'],
      ['<c t="inlineStr"><is><r><t>=1+</t></r><r><t>1</t></r></is></c>', '=1+1'],
      ['<c t="inlineStr"><is><t><![CDATA[<a href="x">]]> &#x4e2d;</t></is></c>', '<a href="x"> 中'],
      [number('1.0E+14'), '100000000000000'],
      [number('0.1'), '0.1'],
      [number('1234.5', 1), '¥1,234.50'],
      [number('3', 2), '3天'],
      [number('46380', 3), '2026-12-24'],
      [number('1.5', 4), '36:00'],
      [number('46380.75', 5), '18:00'],
      [number('1234567', 6), '123-4567'],
      [number('46380.770833333336', 7), '2026-12-24T18:30'],
      [number('12345678', 8), '12345678'],
      [number('0.25', 9), '25%'],
      [number('-5', 10), '-5'],
      [number('60', 3), '1900-02-29'],
    ];
    const rows = cases.map(([cell]) => `<row>${cell}<c t="inlineStr"><is><t>x</t></is></c></row>`);
    const problems = [
      ['<c t="e"><v>#N/A</v></c>', 'cellError'],
      ['<c><f>1+1</f><v/></c>', 'noValue'],
      [number('1.0E+15'), 'longNumber'],
      [number('-1', 3), 'cellError'],
    ] as const;
    const { info, cells } = await read(
      zipOf(
        workbookOf(rows.join('') + problems.map(([cell]) => `<row>${cell}</row>`).join(''), {
          formats: formats.join(' | '),
          after: '<mergeCells><mergeCell ref="A1:B2"/></mergeCells>',
        }),
      ),
      { hasHeader: false },
    );
    assert.deepEqual(
      cells.map(([cell]) => cell),
      cases.map(([, shown]) => shown),
    );
    assert.deepEqual(
      info.faults.map(({ problem }) => problem.code),
      problems.map(([, code]) => code),
    );
    assert.equal(info.mergedRanges, 1);
  });

  test('rows of a sheet are counted by their numbers, hidden ones are left out, and none is lost behind empty ones', async () => {
    const far = textRow(['last'], 'r="1048576"');
    const empty = Array.from({ length: 101_000 }, (_, index) => `<row r="${index + 4}"><c s="1"/></row>`);
    const bytes = zipOf(
      workbookOf(
        `${textRow(['uid'])}${textRow(['shown'])}${textRow(['filtered'], 'r="3" hidden="1"')}${empty.join('')}${far}`,
      ),
    );
    const { info, cells, engine } = await read(bytes);
    assert.deepEqual(cells, [['shown'], ['last']]);
    assert.deepEqual([info.hiddenRows, engine.rows(1, 1)[0]?.line], [1, 1_048_576]);
    assert.deepEqual((await read(bytes, { withHidden: true })).cells, [['shown'], ['filtered'], ['last']]);
    const long = await read(zipOf(workbookOf(textRow(['1']).repeat(100_003))), { hasHeader: false });
    assert.deepEqual([long.info.isCut, long.info.rowCount], [true, 100_000]);
  });

  test('a workbook that is damaged, hostile or of another kind gets a sentence', async () => {
    const plain = workbookOf(textRow(['uid']) + textRow(['1']));
    const sheet = 'xl/worksheets/sheet1.xml';
    const packed = deflateRawSync(Buffer.alloc(20_000_000, ' '));
    const compound = Buffer.alloc(4096);
    Buffer.from('d0cf11e0a1b11ae1', 'hex').copy(compound);
    compound.writeUInt16LE(9, 30);
    compound.writeUInt32LE(1, 48);
    Buffer.from('EncryptedPackage', 'utf16le').copy(compound, 1024 + 128);
    const main = (target: string) => ({ '_rels/.rels': relations(['officeDocument', target]), [target]: '<x/>' });
    for (const [content, code, kind] of [
      [compound, 'encrypted'],
      [zipOf({ mimetype: 'application/vnd.oasis', 'content.xml': '<x/>' }), 'binary', 'open-document'],
      [zipOf(main('xl/workbook.bin')), 'binary', 'xlsb'],
      [zipOf(main('word/document.xml')), 'binary', 'document'],
      [zipOf({ 'Index/Document.iwa': 'x' }), 'binary', 'numbers'],
      [zipOf({ 'a.csv': 'uid\n1\n' }), 'binary', 'zip'],
      [Buffer.from(Array.from({ length: 5000 }, (_, index) => (index * 7919) % 256)), 'binary', 'other'],
      // Unpacks to 20 MB, and declares less.
      [zipOf({ ...plain, [sheet]: packed }, { [sheet]: 1000 }), 'damaged'],
      [zipOf({ ...plain, [sheet]: packed }, { [sheet]: 20_000_000 }), 'damaged'],
      [zipOf({ ...plain, [sheet]: '<!DOCTYPE x [<!ENTITY a "b">]><worksheet/>' }), 'damaged'],
      [zipOf({ ...plain, [sheet]: plain[sheet].slice(0, -30) }), 'damaged'],
      [zipOf({ ...plain, [sheet]: '<row><c t="s"><v>99</v></c></row>' }), 'damaged'],
      [zipOf({ ...plain, [sheet]: '<row><c r="ZZZZ1" t="b"><v>1</v></c></row>' }), 'damaged'],
      [zipOf({ ...plain, [sheet]: '<worksheet><sheetData/></worksheet>' }), 'noRows'],
      [zipOf(workbookOf(textRow(Array.from({ length: 600 }, (_, index) => `c${index}`)))), 'tooManyColumns'],
    ] as const)
      assert.deepEqual(
        await read(content).then(
          () => 'read',
          (error: unknown) => {
            const { problem } = error as FileProblem;
            return [problem.code, problem.values?.kind];
          },
        ),
        [code, kind],
        content.subarray(0, 400).toString('latin1'),
      );
    // A CSV under the name of a workbook is read by its bytes.
    assert.deepEqual((await read('uid,name\n1,Ann\n')).cells, [['1', 'Ann']]);
  });

  test('lines of complete messages are taken as they are: payloads of base64, text or JSON, and all else', async () => {
    const lines = [
      {
        channel_id: 'ann',
        channel_type: 1,
        from_uid: 'ben',
        payload: 'SGVsbG8=',
        header: { red_dot: 1 },
        client_msg_no: 'k1',
      },
      { channelId: 'team', channelType: 'CHANNEL_TYPE_GROUP', payload: { type: 1, content: '你好' }, expire: 60 },
      { channel_id: 'carl', template: { name: 'hi', variables: { name: 'Carl' } } },
      { channel_id: 'dora', payload: 'no base64!' },
      { payload: 'SGVsbG8=' },
    ];
    const { info, engine } = await read(`${lines.map((line) => JSON.stringify(line)).join('\n')}\n`);
    assert.equal(info.holdsMessages, true);
    const form = formFor(info, undefined);
    // One text that is not base64 is a mistake of its line.
    assert.equal(form.isBase64, true);
    const plan = planOf(form);
    assert.ok(plan !== undefined);
    const texts = [0, 1, 2, 3, 4].map((row) => {
      const { channelType, channelId, fromUid, payload, problem } = engine.preview(plan, row);
      return [channelType, channelId, fromUid, payload && new TextDecoder().decode(payload), problem?.code];
    });
    assert.deepEqual(texts, [
      [1, 'ann', 'ben', 'Hello', undefined],
      [2, 'team', 'system', '{"type":1,"content":"你好"}', undefined],
      [1, 'carl', 'system', undefined, undefined],
      [0, '', '', undefined, 'notBase64'],
      [0, '', '', undefined, 'required'],
    ]);
    const asText = planOf({ ...form, isBase64: false });
    assert.ok(asText !== undefined);
    assert.equal(new TextDecoder().decode(engine.preview(asText, 3).payload), 'no base64!');
    assert.equal((await read('{"uid":"1","name":"Ann"}\n')).info.holdsMessages, false);
  });

  test('any column can be inserted into a text, whatever its name', async () => {
    const names = [
      'a.b',
      'it"s',
      '😀',
      'first name',
      'empty',
      'true',
      'and',
      'not',
      'العربية',
      'a}}b',
      '__proto__',
      '',
    ];
    const { info, engine } = await read(
      `${names.map((name) => `"${name.replaceAll('"', '""')}"`).join(',')}\n${'v,'.repeat(11)}v\n`,
    );
    for (const column of info.columns) {
      const form = { ...formFor(info, undefined), receiverColumn: 'a.b', source: 'text' as const };
      const plan = planOf({ ...form, text: `<${variableOf(column)}>` });
      assert.ok(plan !== undefined);
      assert.equal(new TextDecoder().decode(engine.preview(plan, 0).payload), '<v>', column);
    }
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
    // The unpacked size that the directory declares for the sheet.
    const sheetAt = Buffer.from(bytes).lastIndexOf('xl/worksheets/sheet1.xml', undefined, 'latin1') - 46;
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(sheetAt + 24, 0x7fffffff, true);
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
