import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { decodeLines, encoding, readText } from '../../../src/cli/input/decode.ts';
import { temporaryFolder } from '../../support/cluster.ts';

async function decoded(bytes: Buffer, label = 'utf-8', piece = 64 * 1024): Promise<string> {
  const pieces = [];
  for (let at = 0; at < bytes.length; at += piece) pieces.push(bytes.subarray(at, at + piece));
  let text = '';
  for await (const each of decodeLines(Readable.from(pieces), label)) text += each;
  return text;
}

const latin = (text: string) => Buffer.from(text, 'latin1');
const utf16be = (text: string) => Buffer.from(text, 'utf16le').swap16();

describe('decoding of files', () => {
  let folder: string;
  before(() => {
    folder = temporaryFolder('decode');
    mkdirSync(folder, { recursive: true });
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  test('a file that is not UTF-8 is refused with line, byte and a likely encoding', async () => {
    const lines = latin('id,name\n1,ok\n2,M\xfcller\n');
    for (const piece of [3, 64 * 1024])
      await assert.rejects(decoded(lines, 'utf-8', piece), {
        line: 3,
        message:
          /^line 3: byte 17 \(0xFC, byte 4 of its line\) is not valid UTF-8; --encoding windows-1252 reads "2,Müller"/,
      });
    // Surrogates, overlong forms, and a character truncated at the end.
    for (const hex of ['eda080', 'c0af', 'e4b8', 'f09f98', 'ff'])
      await assert.rejects(decoded(Buffer.from(`610a${hex}`, 'hex')), { line: 2 }, hex);
  });

  test('any UTF-8 is decoded unchanged, in pieces of any length, without its byte order mark', async () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(text, fc.integer({ min: 1, max: 7 }), async (each, piece) => {
        assert.equal(await decoded(Buffer.from(`x${each}\n\ufeffy`), 'utf-8', piece), `x${each}\n\ufeffy`);
      }),
    );
    assert.equal(await decoded(Buffer.from('\ufeffa')), 'a');
    assert.equal(await decoded(Buffer.from('\ufeffab', 'utf16le'), 'utf-16le'), 'ab');
  });

  test('a given encoding is used, and bytes invalid in it are refused', async () => {
    for (const [label, bytes, text] of [
      ['windows-1252', latin('\x80\x93M\xfcller\x94'), '€“Müller”'],
      ['gbk', Buffer.from('c4e3bac3', 'hex'), '你好'],
      ['gb18030', Buffer.from('c4e39439fc36', 'hex'), '你😀'],
      ['big5', Buffer.from('a741a66e', 'hex'), '你好'],
      ['shift_jis', Buffer.from('82a082a2', 'hex'), 'あい'],
      ['euc-kr', Buffer.from('b0a1', 'hex'), '가'],
      ['utf-16le', Buffer.from('ab\n你', 'utf16le'), 'ab\n你'],
      ['UTF-16BE', utf16be('ab\n你'), 'ab\n你'],
    ] as const) {
      const isWide = /utf-16/i.test(label);
      const padded = isWide ? bytes : Buffer.concat([bytes, Buffer.from('\nz')]);
      for (const piece of [1, 3, 1000])
        assert.equal(await decoded(padded, encoding(label), piece), isWide ? text : `${text}\nz`);
    }
    await assert.rejects(decoded(Buffer.from('610ac4', 'hex'), 'gbk'), { line: 2 });
    await assert.rejects(decoded(Buffer.from('6100000a00', 'hex'), 'utf-16le'));
    for (const odd of ['utf-7', 'klingon', 'iso-2022-jp', 'replacement'])
      assert.throws(() => encoding(odd), /Expected utf-8/);
  });

  test('a file that is not text is refused by its kind', async () => {
    for (const [bytes, words] of [
      [Buffer.from('PK\u0003\u0004..............xl/workbook.xml', 'latin1'), /Excel workbook \(\.xlsx\)/],
      [Buffer.from('PK\u0003\u0004..............a.csv', 'latin1'), /ZIP archive/],
      [Buffer.from('d0cf11e0a1b11ae1', 'hex'), /old Excel/],
      [Buffer.from('%PDF-1.7'), /a PDF/],
      [gzipSync('a'), /compressed by gzip/],
      [Buffer.from('28b52ffd', 'hex'), /zstd/],
      [Buffer.concat([Buffer.alloc(257, 'a'), Buffer.from('ustar')]), /tar archive/],
      [Buffer.from('<!DOCTYPE html><p>'), /HTML/],
      [Buffer.from('\ufeffid,x', 'utf16le'), /utf-16le.*--encoding utf-16le/],
      [utf16be('\ufeffid,x'), /utf-16be.*--encoding utf-16be/],
      [Buffer.from('fffe00006900000064000000', 'hex'), /it is UTF-32: .*iconv/],
      [Buffer.from('0000feff0000006900000064', 'hex'), /it is UTF-32: .*iconv/],
      [Buffer.from('id,payload', 'utf16le'), /UTF-16.*utf-16le/],
      [utf16be('id,payload'), /UTF-16.*utf-16be/],
    ] as const)
      await assert.rejects(decoded(bytes), words);
    await assert.rejects(
      decoded(Buffer.from('\ufeffa'), 'windows-1252'),
      /it is utf-8, according to its byte order mark/,
    );
    await assert.rejects(decoded(Buffer.alloc(9 * 1024 * 1024, 'a')), /line 1: the line is longer than/);
    const file = join(folder, 'bad.liquid');
    writeFileSync(file, latin('Hallo {{ name }},\nsch\xf6n'));
    assert.throws(() => readText(file), /bad\.liquid: line 2: byte 22 \(0xF6, byte 4 of its line\) is not valid UTF-8/);
    assert.equal(readText(file, 'windows-1252'), 'Hallo {{ name }},\nschön');
    writeFileSync(file, '\ufeff<html>{{ name }}');
    assert.equal(readText(file), '<html>{{ name }}');
  });
});
