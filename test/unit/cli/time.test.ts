import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { time, zone } from '../../../src/cli/time.ts';
import { assertTime, describeTime, parseTime } from '../../../src/message-files/time.ts';

describe('times on the command line', () => {
  test('a time that exists is parsed, and formats back to an equal time', async () => {
    for (const [text, zoneName, utc] of [
      ['2026-12-24T18:00Z', undefined, '2026-12-24T18:00:00.000Z'],
      ['2026-12-24T18:00:00+01:00', undefined, '2026-12-24T17:00:00.000Z'],
      ['2028-02-29T00:00:00.5-05:30', undefined, '2028-02-29T05:30:00.500Z'],
      ['2026-12-24T18:00', 'Europe/Berlin', '2026-12-24T17:00:00.000Z'],
      ['2026-07-01T00:00:00', 'Asia/Shanghai', '2026-06-30T16:00:00.000Z'],
    ] as const)
      assert.equal(new Date(await parseTime(text, zoneName)).toISOString(), utc);
    const date = fc.date({
      noInvalidDate: true,
      min: new Date('0001-01-01T00:00Z'),
      max: new Date('9999-12-31T00:00Z'),
    });
    await fc.assert(
      fc.asyncProperty(date, async (each) => {
        assert.equal(await parseTime(each.toISOString()), each.getTime());
      }),
    );
  });

  test('a time that does not exist, is ambiguous, lacks an offset or uses another notation is refused', async () => {
    for (const [text, zoneName, words] of [
      ['2027-02-29T12:00:00Z', undefined, /does not exist/],
      ['2026-12-24T24:00:00Z', undefined, /does not exist/],
      ['2026-13-01T00:00:00Z', undefined, /does not exist/],
      ['2026-12-31T23:59:60Z', undefined, /does not exist/],
      ['2026-12-24T18:60Z', undefined, /does not exist/],
      ['2026-12-24T18:00', undefined, /has no offset.*--time-zone/],
      ['2026-12-24T18:00Z', 'Europe/Berlin', /offset of its own/],
      [
        '2026-03-29T02:30',
        'Europe/Berlin',
        /does not exist in Europe\/Berlin.*01:30:00\+01:00 or 2026-03-29T03:30:00\+02:00/,
      ],
      [
        '2026-10-25T02:30',
        'Europe/Berlin',
        /occurs twice in Europe\/Berlin.*02:30:00\+02:00 or 2026-10-25T02:30:00\+01:00/,
      ],
      ['2026-02-30T02:30', 'Europe/Berlin', /does not exist/],
      ['12/10/2026', undefined, /is not a time such as/],
      ['Dec 24 2026', undefined, /is not a time such as/],
      ['2026-12-24', undefined, /is not a time such as/],
      ['1798131600000', undefined, /is not a time such as/],
      ['2026-12-24T18:00:00+25:00', undefined, /is not a time such as/],
    ] as const)
      await assert.rejects(parseTime(text, zoneName), words, text);
    assert.throws(() => time('2027-02-29T12:00Z'), /does not exist/);
    assert.throws(() => time('2026-01-01T12:00'), /with its offset/);
    assert.throws(() => assertTime('2027-04-31T00:00:00Z'), /does not exist/);
    assert.throws(() => zone('Mars/Base'), /IANA/);
    assert.equal(zone('europe/berlin'), 'Europe/Berlin');
  });

  test('a time is printed in its zone and in UTC', async () => {
    assert.equal(
      await describeTime(Date.UTC(2026, 11, 24, 17), 'Europe/Berlin'),
      '2026-12-24T18:00:00+01:00 (Europe/Berlin), 2026-12-24T17:00:00.000Z in UTC',
    );
  });
});
