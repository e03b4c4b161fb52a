import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parse } from 'csv-parse/sync';
import fc from 'fast-check';
import { CsvError, CsvReader, type CsvRow } from '../../../src/message-files/csv.ts';

/**
 * The rows of a text that arrives in pieces of some length, and the line of the error that ends it.
 */
function read(text: string, delimiter = ',', piece = text.length || 1): { rows: CsvRow[]; fault?: CsvError } {
  const reader = new CsvReader(delimiter);
  const rows: CsvRow[] = [];
  try {
    for (let at = 0; at < text.length; at += piece)
      for (const row of reader.push(text.slice(at, at + piece))) rows.push(row);
    for (const row of reader.end()) rows.push(row);
  } catch (error) {
    assert.ok(error instanceof CsvError, String(error));
    return { rows, fault: error };
  }
  return { rows };
}

const cellsOf = (text: string) => read(text).rows.map((row) => row.cells);

describe('the CSV reader', () => {
  test('the CSV reader reads RFC 4180, with the line where each row begins', () => {
    const { rows } = read('a,"b ""c""",\r\n\r\n"two\nlines",,x\r\nlast,"",y');
    assert.deepEqual(
      rows.map(({ line, cells }) => [line, cells]),
      [
        [1, ['a', 'b "c"', '']],
        [3, ['two\nlines', '', 'x']],
        [5, ['last', '', 'y']],
      ],
    );
    assert.equal(rows[1]?.text, '"two\nlines",,x');
    assert.deepEqual(cellsOf('a,b\rc,d\r"e\rf",g\r'), [
      ['a', 'b'],
      ['c', 'd'],
      ['e\rf', 'g'],
    ]);
    // A CR within a line is text where lines end with LF.
    assert.deepEqual(cellsOf('h\na\rb\nc'), [['h'], ['a\rb'], ['c']]);
    assert.deepEqual(cellsOf(''), []);
  });

  test('a quote inside an unquoted CSV cell invalidates only its row', () => {
    const { rows } = read('h,i\na,5" nail\nb,c\n');
    assert.deepEqual(
      rows.map(({ line, fault }) => [line, fault !== undefined]),
      [
        [1, false],
        [2, true],
        [3, false],
      ],
    );
  });

  test('a CSV error that makes the rest ambiguous ends the file at the line where the quote opened', () => {
    for (const [text, line, rows, words] of [
      ['h,i\na,b\nc,"Fast" Eddie\nd,e\n', 3, 2, /closed before the end of the cell \(" " follows\)/],
      ['h,i\na,"b\nc,d\n', 2, 1, /never closed/],
      ['h,i\n"x\ny",z\n"q\n","r\ns', 5, 2, /never closed/],
      [`h,i\na,"${'b'.repeat(1_100_000)}\n`, 2, 1, /more than 1048576 characters follow/],
      [`h,i\na,${'b'.repeat(1_100_000)}\n`, 2, 1, /the row is longer than/],
    ] as const)
      for (const piece of [1_200_000, 7]) {
        if (piece === 7 && text.length > 100) continue;
        const read1 = read(text, ',', piece);
        assert.deepEqual([read1.fault?.line, read1.rows.length], [line, rows], text.slice(0, 40));
        assert.match(read1.fault?.message ?? '', words);
      }
  });

  test('the CSV reader reads what csv-parse reads, in pieces of any length', () => {
    const cell = fc.string({ unit: fc.constantFrom('a', 'ö', '"', ',', ';', '\n', '\r\n', ' ', '😀'), maxLength: 6 });
    const table = fc.array(fc.array(cell, { minLength: 2, maxLength: 4 }), { minLength: 1, maxLength: 6 });
    const end = fc.constantFrom('\n', '\r\n');
    fc.assert(
      fc.property(
        table,
        end,
        fc.constantFrom(',', ';', '\t'),
        fc.integer({ min: 1, max: 9 }),
        (rows, lineEnd, delimiter, piece) => {
          const quoted = (text: string) => (/[",;\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
          const text = rows.map((row) => row.map(quoted).join(delimiter)).join(lineEnd);
          assert.deepEqual(
            read(text, delimiter, piece).rows.map((row) => row.cells),
            parse(text, { delimiter, relax_column_count: true, skip_empty_lines: true }),
          );
        },
      ),
    );
  });
});
