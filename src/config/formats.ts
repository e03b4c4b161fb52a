import convict from 'convict';

/** A shard is a schema of nine tables: more would only make the catalog of PostgreSQL large. */
const mostShards = 1024;

/** Ranges of integers: minimum, maximum, unit. Documentation and errors show them. */
const ranges = {
  'tcp-port': [0, 65_535, ''],
  milliseconds: [1, 24 * 3600_000, 'ms'],
  pause: [0, 3600_000, 'ms'],
  window: [0, 3650 * 24 * 3600_000, 'ms'],
  days: [1, 3650, 'days'],
  'keep-days': [0, 3650, 'days'],
  workers: [1, 64, ''],
  lanes: [0, 64, ''],
  count: [1, 10_000, ''],
} as const;

/** Formats of texts: the notation in the documentation, and a check that returns what is wrong. */
const texts = {
  text: { shape: 'text', fault: () => undefined },
  path: { shape: 'path', fault: () => undefined },
  'database-url': {
    shape: '`postgres://…`',
    fault: (text: string) => (text === '' ? undefined : faultOfDatabaseUrl(text)),
  },
  'web-url': {
    shape: '`https://…`, `http://…`',
    fault: (text: string) =>
      text === '' || (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol))
        ? undefined
        : 'must be an http or https URL',
  },
  scopes: {
    shape: '`send,read,admin,metrics`',
    fault: (text: string) => firstInvalid(splitList(text), isScope, 'is not a scope: send, read, admin, metrics'),
  },
  shards: {
    shape: '`1`, `2`, `4` … `1024`',
    fault: (text: string) =>
      /^\d+$/.test(text) && Number(text) <= mostShards && Number.isInteger(Math.log2(Number(text)))
        ? undefined
        : `must be a power of two from 1 to ${mostShards}`,
  },
  share: {
    shape: '0 – 1',
    fault: (text: string) => (/^(0(\.\d+)?|1(\.0+)?)$/.test(text) ? undefined : 'must be a number from 0 to 1'),
  },
  quotas: {
    shape: '`1/1s` … `1000000000/86400s`',
    fault: (text: string) =>
      firstInvalid(
        splitWords(text),
        (each) => quotaOf(each) !== undefined,
        'is not a quota such as 100/1s: 1 to 10^9 messages in 1 to 86400 seconds',
      ),
  },
  retention: {
    shape: '`1=1` … `12=99999`',
    fault: (text: string) =>
      firstInvalid(
        splitWords(text),
        (each) => /^([1-9]|1[0-2])=[1-9]\d{0,4}$/.test(each),
        'is not a channel type and its days, such as 2=365',
      ) ?? faultOfRepeatedType(retentionOf(text)),
  },
  origins: {
    shape: '`https://…`, `*`',
    fault: (text: string) =>
      firstInvalid(
        splitList(text),
        (each) => each === '*' || (URL.canParse(each) && new URL(each).origin === each),
        'is not an origin such as https://app.example.com',
      ),
  },
} as const satisfies Record<string, { shape: string; fault: (text: string) => string | undefined }>;

export type NumberFormat = keyof typeof ranges;
/** The format of a setting: a range, a text format, or a list of words. */
export type Format = NumberFormat | keyof typeof texts | readonly string[];

for (const [name, [least, most, unit]] of Object.entries(ranges)) {
  const what = unit === 'ms' ? 'milliseconds' : unit === '' ? 'a whole number' : unit;
  convict.addFormat({
    name,
    validate(value: unknown) {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most)
        throw new Error(`must be ${what} from ${least} to ${most}`);
    },
    // Number() also accepts '', '1e3' and '0x10'.
    coerce: (value: unknown) => (/^\d+$/.test(String(value)) ? Number(value) : value),
  });
}
for (const [name, { fault }] of Object.entries(texts)) {
  convict.addFormat({
    name,
    validate(value: unknown) {
      const wrong = fault(String(value));
      if (wrong !== undefined) throw new Error(wrong);
    },
    coerce: String,
  });
}

/** Bounds and unit of a format, for the documentation. */
export function boundsOf(format: Format): string {
  if (typeof format !== 'string')
    return format
      .filter((word) => word !== '')
      .map((word) => `\`${word}\``)
      .join(', ');
  if (!isNumberFormat(format)) return texts[format].shape;
  const [least, most, unit] = ranges[format];
  return `${least} – ${most}${unit === '' ? '' : ` ${unit}`}`;
}

/**
 * Rewrites convict's message about a value that is not one of a setting's words. Unset is always
 * allowed.
 */
export function describeFault(fault: string): string {
  return fault.replace(/^must be one of the possible values: (\[.*?\])/, (_, list: string) => {
    const words = (JSON.parse(list) as string[]).filter((word) => word !== '');
    return `must be ${new Intl.ListFormat('en-GB', { type: 'disjunction' }).format(words)}`;
  });
}

function isNumberFormat(format: string): format is NumberFormat {
  return Object.hasOwn(ranges, format);
}

/** Describes the first invalid part. */
function firstInvalid(parts: readonly string[], isGood: (part: string) => boolean, fault: string): string | undefined {
  const odd = parts.find((part) => !isGood(part));
  return odd === undefined ? undefined : `${JSON.stringify(odd)} ${fault}`;
}

/** A scope of a credential. */
export type Scope = 'send' | 'read' | 'admin' | 'metrics';

export function isScope(text: string): text is Scope {
  return text === 'send' || text === 'read' || text === 'admin' || text === 'metrics';
}

export interface Quota {
  readonly points: number;
  readonly seconds: number;
}

function quotaOf(text: string): Quota | undefined {
  const [, points, seconds] = /^([1-9]\d{0,9})\/([1-9]\d{0,4})s$/.exec(text) ?? [];
  const quota = { points: Number(points), seconds: Number(seconds) };
  return quota.points <= 1e9 && quota.seconds <= 86_400 ? quota : undefined;
}

export function quotasOf(text: string): Quota[] {
  return splitWords(text).flatMap((each) => quotaOf(each) ?? []);
}

/** Of two numbers of days the smaller one would remove messages that the other one keeps. */
function faultOfRepeatedType(parts: ReturnType<typeof retentionOf>): string | undefined {
  const types = parts.map(({ channelType }) => channelType);
  const repeated = types.find((type, index) => types.indexOf(type) !== index);
  return repeated === undefined ? undefined : `names channel type ${repeated} twice`;
}

export function retentionOf(text: string): { channelType: number; days: number }[] {
  return splitWords(text).map((part) => {
    const [channelType = 0, days = 0] = part.split('=').map(Number);
    return { channelType, days };
  });
}

const sslModes = ['disable', 'prefer', 'require', 'verify-ca', 'verify-full', 'no-verify'];

/** The driver throws for an invalid URL. The host may be empty if `host=` names a socket folder. */
function faultOfDatabaseUrl(text: string): string | undefined {
  if (!/^postgres(ql)?:\/\//.test(text)) return 'must start with postgres:// or postgresql://';
  const mode = /[?&]sslmode=([^&]*)/.exec(text)?.[1];
  // The driver treats any other word as verify-full.
  if (mode !== undefined && !sslModes.includes(mode))
    return `has an unknown sslmode; it must be one of ${sslModes.join(', ')}`;
  return URL.canParse(text) || URL.canParse(text.replace('@/', '@folder/'))
    ? undefined
    : 'must be postgres://user:password@host:port/database, with one host, and special characters in the password percent-encoded (@ as %40)';
}

/** Splits at commas. */
export function splitList(text: string): string[] {
  return text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '');
}

/** Splits at spaces or commas. */
function splitWords(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}
