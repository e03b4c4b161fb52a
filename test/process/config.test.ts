import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { parseDotenv } from '../../src/config/dotenv.ts';
import { ConfigError, describeSettings, loadConfig } from '../../src/config/index.ts';
import { schema } from '../../src/config/settings.ts';
import { gather } from '../../src/config/sources.ts';
import { checkTls } from '../../src/config/tls.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { runToEnd } from '../support/process.ts';

const work = temporaryFolder('config');
after(() => rmSync(work, { recursive: true, force: true }));

let files = 0;
function fileWith(content: unknown): string {
  const path = join(work, `${++files}.json`);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

const refused = (env: Record<string, string>, words: RegExp) =>
  assert.throws(
    () => loadConfig(env),
    (error) => {
      assert.ok(error instanceof ConfigError);
      assert.match(error.message, words);
      assert.doesNotMatch(error.message, /hush/);
      return true;
    },
  );

describe('the file of SENDBATCH_CONFIG', () => {
  test('the file of SENDBATCH_CONFIG sets what the environment does not', () => {
    const file = fileWith({ PORT: 6001, WORKERS: 2, SYSTEM_UIDS: ['a', 'b'], RETENTION: '2=365 9=7' });
    const config = loadConfig({ SENDBATCH_CONFIG: file, WORKERS: '3' });
    assert.deepEqual(
      [config.port, config.workers, config.systemUids, config.retention],
      [
        6001,
        3,
        ['a', 'b'],
        [
          { channelType: 2, days: 365 },
          { channelType: 9, days: 7 },
        ],
      ],
    );
  });
  const rows: [string, unknown, RegExp][] = [
    [
      'a name that does not exist',
      { LOCK_TIMEOUTS: 5 },
      /^LOCK_TIMEOUTS \(.*\) is not a setting: did you mean LOCK_TIMEOUT\?/,
    ],
    ['a name that is far from any', { colour: 'red' }, /^colour \(.*\) is not a setting; npm run cli -- config lists/],
    ['a short name that is far from any', { FOO: 'x' }, /^FOO \(.*\) is not a setting; /],
    ['an invalid value, naming its source', { PORT: 70_000 }, /^PORT: must be .*0 to 65535.*\.json\)$/],
    ['a value of the wrong kind', { AUTH: true }, /^AUTH .* must be a string, a number/],
    ['a number that would be rounded', '{"JWT_SECRET":12345678901234567890}', /^JWT_SECRET .* at most 2\^53-1/],
    ['something other than an object', [], /must be a JSON object/],
    ['text that is not JSON, without showing it', '{"JWT_SECRET": hush}', /is not JSON/],
  ];
  for (const [what, content, words] of rows)
    test(`the file of SENDBATCH_CONFIG is refused with ${what}`, () =>
      refused({ SENDBATCH_CONFIG: fileWith(content) }, words));
  test('the file of SENDBATCH_CONFIG must exist', () =>
    refused({ SENDBATCH_CONFIG: join(work, 'none.json') }, /^SENDBATCH_CONFIG=.* cannot be read/));
});

describe('.env', () => {
  const folder = join(work, 'dotenv');
  mkdirSync(folder);
  const valuesOf = (content: string | Uint8Array) => {
    writeFileSync(join(folder, '.env'), content);
    return gather({}, folder).values;
  };

  test('a byte order mark in .env does not hide the first setting', () => {
    assert.deepEqual(valuesOf('\ufeffAUTH=on\r\nPORT=6001\r\n'), { AUTH: 'on', PORT: '6001' });
  });
  test('.env is parsed as Node parses it: comments, export, quotes, values over several lines', () => {
    const text = `# c\n\n  # c\nexport PORT = 1 # c\nJWT_SECRET="a\n#b'\nc=d" # c\nHOST='x#y'\nOTHER=\`"\`\nEMPTY=\n`;
    const expected = { PORT: '1', JWT_SECRET: "a\n#b'\nc=d", HOST: 'x#y', OTHER: '"', EMPTY: '' };
    assert.deepEqual({ ...parseDotenv(text, '.env') }, expected);
  });

  const rows: [string, string | Uint8Array, RegExp][] = [
    [
      'UTF-16 with a byte order mark',
      Buffer.from('\ufeffAUTH=on\n', 'utf16le'),
      /\.env is UTF-16, .* save it as UTF-8$/,
    ],
    ['UTF-16 without a byte order mark', Buffer.from('AUTH=on\n', 'utf16le'), /\.env is UTF-16, .* save it as UTF-8$/],
    ['text that is not UTF-8', Buffer.from('PORT=1\n# caf\xe9\n', 'latin1'), /\.env is not UTF-8 \(line 2\)/],
    ['a line without =', 'PORT=1\nAUTH on\n', /\.env line 2 is not NAME=value$/],
    ['a line of a secret that is not quoted', 'PORT=1\nhush hush\n', /\.env line 2 is not NAME=value$/],
    [
      'an invisible character in a name',
      '\u200bAUTH=on',
      /line 1 is not NAME=value: "\\u200bAUTH" is not a valid name$/,
    ],
    ['a name after a second byte order mark', '\ufeff\ufeffAUTH=on', /line 1 is not NAME=value: "\\ufeffAUTH"/],
    ['a name with a blank', 'AUTH ON=hush', /line 1 is not NAME=value: "AUTH ON" is not a valid name$/],
    ['a name twice', 'AUTH=on\nPORT=1\nAUTH=off', /line 3 sets AUTH again, after line 1$/],
    ['lines that end with CR', 'AUTH=on\rPORT=1', /line 1 contains a carriage return/],
    ['a quote that is not closed', 'PORT=1\nJWT_SECRET="hush\n', /line 2: the quote " of JWT_SECRET is not closed$/],
    ['text after a closing quote', 'AUTH="on" hush', /line 1: AUTH has text after its closing "$/],
    ['a # in a value', 'JWT_SECRET=hush#hush # c', /line 1: JWT_SECRET would end before its #: quote the value$/],
  ];
  for (const [what, content, words] of rows)
    test(`.env is refused with ${what}, and the error shows no secret`, () => {
      assert.throws(
        () => valuesOf(content),
        (error) => {
          assert.ok(error instanceof ConfigError);
          assert.match(error.message, words);
          assert.doesNotMatch(error.message, /hush/);
          return true;
        },
      );
    });
  test('a setting in lower case in .env gives a warning', () => {
    writeFileSync(join(folder, '.env'), 'auth=on\n');
    assert.deepEqual(gather({}, folder).warnings, ['auth (.env) is not a setting; AUTH is']);
  });
  for (const slip of ['AUHT', 'UATH', 'ATH', 'AUTHH', 'AUTG'])
    test(`${slip} in .env, a typo of the short name AUTH, gives a warning`, () => {
      writeFileSync(join(folder, '.env'), `${slip}=on\n`);
      assert.deepEqual(gather({}, folder).warnings, [`${slip} (.env) is not a setting; AUTH is`]);
    });
  test('a dangling symbolic link as .env is refused', () => {
    const elsewhere = join(work, 'a link');
    mkdirSync(elsewhere);
    symlinkSync('nowhere', join(elsewhere, '.env'));
    assert.throws(() => gather({}, elsewhere), /\.env cannot be read: ENOENT/);
  });
});

describe('every file of settings', () => {
  const withBytes = (bytes: Uint8Array) => {
    const path = join(work, `bytes ${++files}`);
    writeFileSync(path, bytes);
    return path;
  };
  test('every file of settings may begin with a byte order mark', () => {
    const secret = withBytes(Buffer.from('\ufeffpostgres://db/x\n'));
    const file = withBytes(Buffer.from('\ufeff{"PORT": 6001}'));
    const config = loadConfig({ SENDBATCH_CONFIG: file, DATABASE_URL_FILE: secret });
    assert.deepEqual([config.port, config.database], [6001, { url: 'postgres://db/x' }]);
  });
  for (const name of ['SENDBATCH_CONFIG', 'DATABASE_URL_FILE', 'JWT_SECRET_FILE', 'TLS_KEY'])
    test(`the file of ${name} must be UTF-8`, () => {
      const more = name === 'TLS_KEY' ? { TLS_CERT: 'x' } : {};
      refused({ [name]: withBytes(Buffer.from('hush', 'utf16le')), ...more }, new RegExp(`^${name}=.* is UTF-16`));
      refused(
        { [name]: withBytes(Buffer.from('hush\nh\xfcsh', 'latin1')), ...more },
        new RegExp(`^${name}=.* is not UTF-8 \\(line 2\\)`),
      );
    });
  test('TLS files must be PEM: a file in DER is named as such', () => {
    refused(
      { TLS_KEY: withBytes(Buffer.from('3082025c02010002', 'hex')), TLS_CERT: 'x' },
      /^TLS_KEY=.* is in DER, not in PEM: .*openssl/,
    );
  });
  test('the file of SENDBATCH_CONFIG may not contain a name twice', () => {
    refused(
      { SENDBATCH_CONFIG: fileWith('{"AUTH": "on", "HOST": "a\\" :", "AUTH": "off"}') },
      / contains "AUTH" twice$/,
    );
    loadConfig({ SENDBATCH_CONFIG: fileWith('{"AUTH": "on", "SYSTEM_UIDS": ["a:", "a:"]}') });
  });
});

test('invisible characters in a value are shown as escapes, and a value that was not UTF-8 is refused', () => {
  refused({ AUTH: 'on\u200b' }, /^AUTH: must be on or off: value was "on\\u200b"$/);
  refused({ PORT: '\u00a05001' }, /^PORT: must be .*"\\u00a05001"/);
  refused({ HOST: 'a\u202eb' }, /^HOST=a\\u202eb is not a loopback/);
  refused({ SYSTEM_UIDS: 'a\ufffd' }, /^SYSTEM_UIDS \(the environment\) is not UTF-8$/);
});

describe('a secret in a file of its own', () => {
  test('a secret file is read without its final newline, and wins over a weaker source', () => {
    const secret = fileWith('postgres://u:hush@db/x\n');
    const config = fileWith({ DATABASE_URL: 'postgres://weaker/x' });
    const { database } = loadConfig({ SENDBATCH_CONFIG: config, DATABASE_URL_FILE: secret, DATABASE_URL: '' });
    assert.deepEqual(database, { url: 'postgres://u:hush@db/x' });
  });
  test('a secret file excludes the setting itself, must exist, and must hold a valid value', () => {
    const odd = fileWith('mysql://u:hush@db/x');
    refused(
      { DATABASE_URL_FILE: odd, DATABASE_URL: 'postgres://db/x' },
      /^DATABASE_URL and DATABASE_URL_FILE must not be set together/,
    );
    refused({ JWT_SECRET_FILE: join(work, 'none') }, /^JWT_SECRET_FILE=.* cannot be read/);
    refused({ DATABASE_URL_FILE: odd }, /^DATABASE_URL: must start with postgres:.*by DATABASE_URL_FILE/);
  });
  test('only secrets can be read from a file of their own', () =>
    refused({ RATE_CALLER_FILE: odd() }, /^RATE_CALLER_FILE .* is not a setting/));
  const odd = () => fileWith('100/1s');
});

describe('names in the environment', () => {
  test('unknown names in the environment with our prefixes are refused with the nearest setting', () => {
    refused({ RATE_CALER: '1/1s' }, /^RATE_CALER \(the environment\) is not a setting: did you mean RATE_CALLER\?/);
    refused({ JWT_SECRETS: 'hush' }, /^JWT_SECRETS .*did you mean JWT_SECRET\?/);
    refused({ SENDBATCH_CONFG: 'x' }, /did you mean SENDBATCH_CONFIG/);
    refused({ SENDBATCH_URI: 'x' }, /did you mean SENDBATCH_URL/);
    refused({ SENDBATCH_FOO: 'x' }, /^SENDBATCH_FOO \(the environment\) is not a setting; /);
  });
  test('names in the environment that are one character from a setting give a warning, and no others do', () => {
    assert.deepEqual(
      loadConfig({
        DATABASE_URI: 'hush',
        LGO_LEVEL: 'debug',
        PATH: '/bin',
        HOSTNAME: 'x',
        PORTS: '1',
        LINES: '50',
        TMPDIR: '/',
      }).warnings,
      [
        'DATABASE_URI (the environment) is not a setting; DATABASE_URL is',
        'LGO_LEVEL (the environment) is not a setting; LOG_LEVEL is',
      ],
    );
  });
  test('the variables that Kubernetes sets for a Service called sendbatch, or webhook-x, are ignored', () => {
    const links = {
      SENDBATCH_SERVICE_HOST: '10.0.0.1',
      SENDBATCH_SERVICE_PORT: '5001',
      SENDBATCH_SERVICE_PORT_HTTP: '5001',
      SENDBATCH_PORT: 'tcp://10.0.0.1:5001',
      SENDBATCH_PORT_5001_TCP: 'tcp://10.0.0.1:5001',
      SENDBATCH_PORT_5001_TCP_ADDR: '10.0.0.1',
      WEBHOOK_X_PORT_80_TCP_PROTO: 'tcp',
    };
    assert.deepEqual(loadConfig(links), loadConfig({}));
    refused({ SENDBATCH_PORT: '5001' }, /^SENDBATCH_PORT .* is not a setting/);
  });
});

describe('invalid values are refused by name, with the bounds', () => {
  test('an empty OpenTelemetry variable counts as unset', () => {
    const empty = Object.fromEntries(
      describeSettings().flatMap(({ name }) => (name.startsWith('OTEL_') ? [[name, '']] : [])),
    );
    assert.ok(Object.keys(empty).length > 4);
    assert.equal(loadConfig(empty).traces, undefined);
    const { traces } = loadConfig({ ...empty, OTEL_TRACES_EXPORTER: 'otlp' });
    assert.deepEqual([traces?.sampler, traces?.ratio, traces?.protocol], ['parentbased_always_on', 1, 'http/protobuf']);
  });

  test('a database URL that the driver cannot parse is refused without showing its password', () => {
    for (const odd of [
      'postgres://u:hush@h:99999999/db',
      'postgres://u:hush@h1:1,h2:2/db',
      'postgres://u:hu/sh@h:5432/db',
    ])
      refused({ DATABASE_URL: odd }, /^DATABASE_URL: must be postgres:\/\/user:(?!.*hu)/);
    refused(
      { DATABASE_URL: 'postgres://u:hush@h/db?sslmode=allow' },
      /^DATABASE_URL: has an unknown sslmode; it must be one of /,
    );
    const urls = [
      'postgres://h/db?sslmode=verify-full',
      'postgres:///db',
      'postgresql://u@/db?host=/run',
      'postgres://u:p%40@[::1]:5432/db',
      'postgres://h1,h2/db',
    ];
    for (const good of urls) assert.deepEqual(loadConfig({ DATABASE_URL: good }).database, { url: good });
  });

  for (const { name, bounds } of describeSettings()) {
    const [, least, most] = /^(\d+) – (\d+)/.exec(bounds) ?? [];
    if (least === undefined) continue;
    test(`${name} is refused outside its bounds, and its maximum is accepted`, () => {
      const empty = name.startsWith('OTEL_') ? [] : [''];
      for (const odd of [...empty, ' 1', '1e1', '0x1', '1.5', '-1', String(Number(most) + 1)])
        refused({ [name]: odd }, new RegExp(`^${name}: must be .* from ${least} to ${most}`));
      loadConfig({ [name]: most ?? '' });
    });
  }
});

test('every setting is read where the configuration is made', () => {
  const folder = join(import.meta.dirname, '../../src/config');
  const source = ['index.ts', 'credentials.ts'].map((file) => readFileSync(join(folder, file), 'utf8')).join('');
  for (const [name, { env }] of Object.entries(schema))
    assert.match(source, new RegExp(`\\bat\\.${name}\\b|[{ ]${name}[,:} ]`), `${env} changes nothing`);
});

test('an invalid choice for a setting is answered with the valid ones', () => {
  refused({ AUTH: 'yes' }, /^AUTH: must be on or off: /);
  refused({ RETENTION: '2=365 9=7 2=1' }, /^RETENTION: names channel type 2 twice/);
  refused({ METRICS: 'on' }, /^METRICS: must be open: /);
  refused({ LOG_FORMAT: 'xml' }, /^LOG_FORMAT: must be auto, json or pretty: /);
  assert.equal(loadConfig({ AUTH: '' }).requiresCredential, false);
});

test('`config` prints every setting with value, source, default, bounds and meaning, and no secret', async () => {
  const folder = join(work, 'place');
  mkdirSync(folder);
  writeFileSync(
    join(folder, '.env'),
    `PORT=6002\nLANES=2\nSENDBATCH_CONFIG=sendbatch.json\nDATABASE_URL="postgres://u:hush@db/x"\n`,
  );
  writeFileSync(join(folder, 'sendbatch.json'), '{"LANES": 3, "WORKERS": 2}');
  const env = { PORT: '6001' };
  const { code, output } = await runToEnd(env, ['config', '--json'], folder);
  assert.equal(code, 0, output);
  const settings = JSON.parse(output) as Record<string, unknown>[];
  const of = (wanted: string) => {
    const { name, value, source, default: usual, bounds } = settings.find((each) => each.name === wanted) ?? {};
    return [name, value, source, usual, bounds];
  };
  assert.deepEqual(
    settings.map((each) => each.name),
    describeSettings().map((each) => each.name),
  );
  assert.deepEqual(of('PORT'), ['PORT', '6001', 'the environment', '5001', '0 – 65535']);
  assert.deepEqual(of('LANES'), ['LANES', '2', '.env', '4', '0 – 64']);
  assert.deepEqual(of('WORKERS'), ['WORKERS', '2', 'sendbatch.json', '1', '1 – 64']);
  assert.deepEqual(of('LOCK_TIMEOUT'), ['LOCK_TIMEOUT', '5000', 'default', '5000', '1 – 86400000 ms']);
  assert.deepEqual(of('DATABASE_URL'), ['DATABASE_URL', '(set, not shown)', '.env', '', '`postgres://…`']);
  assert.doesNotMatch(output, /hush/);

  const odd = await runToEnd({ PORT: 'http' }, ['config'], folder);
  assert.equal(odd.code, 1);
  assert.match(
    odd.output,
    /^PORT = http {2}\(the environment\)\n {4}Port for all protocols; 0 = any free port\.\n {4}default 5001; 0 – 65535$/m,
  );
  assert.match(odd.output, /^sendbatch: PORT: must be a whole number from 0 to 65535/m);
});

describe('the dates of TLS certificates', () => {
  const pem = (name: string) => ({
    name,
    text: readFileSync(join(import.meta.dirname, '../support/certificates', name), 'utf8'),
  });
  const files = { key: pem('localhost-key.pem'), cert: pem('localhost-cert.pem'), clientCa: undefined };
  const rows: [string, string, RegExp | undefined][] = [
    ['that is valid for years', '2030-01-01', undefined],
    [
      'that has expired',
      '2127-01-01',
      /localhost-cert\.pem: .* expired on 2126-10-30T03:30:01\.000Z: clients refuse it/,
    ],
    ['that expires soon', '2126-10-20', /localhost-cert\.pem: .* expires on 2126-10-30T03:30:01\.000Z, in 10 days/],
    ['that is not valid yet', '2020-01-01', /localhost-cert\.pem: .* is not valid before 2026-11-23T03:30:01\.000Z/],
  ];
  for (const [what, at, warning] of rows)
    test(`a certificate ${what} ${warning === undefined ? 'gives no warning' : 'gives a warning'}`, () => {
      const warnings = checkTls(files, Date.parse(at));
      assert.equal(warnings.length, warning === undefined ? 0 : 1);
      if (warning !== undefined) assert.match(warnings[0] ?? '', warning);
    });
  test('the dates of client authorities are checked too', () => {
    assert.match(
      checkTls({ ...files, clientCa: pem('client-ca.pem') }, Date.parse('2200-01-01')).join('\n'),
      /client-ca\.pem: .* expired on/,
    );
  });
});
