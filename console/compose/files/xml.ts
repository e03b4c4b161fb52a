import { FileProblem } from './problem.ts';

/** Receives the parts of a document in their order. Names come without their prefix. */
export interface XmlReceiver {
  onOpen(name: string, attributes: string): void;
  onText?(text: string): void;
  onClose?(name: string): void;
  /** Reading ends when it returns true. */
  isDone?(): boolean;
}

/** A tag; attribute values may contain `>`. */
const tagForm = /<(\/?)([^\s/>"']+)([^>"']*(?:(?:"[^"]*"|'[^']*')[^>"']*)*)>/y;
/** Bounds a tag or a text. A cell of Excel has at most 32,767 characters. */
const maxPartChars = 2 * 1024 * 1024;

/** Elements that are open: a document that ends within one is cut. */
interface Depth {
  open: number;
}

/**
 * Reads XML in pieces. It covers what office programs write: no DTD, which is refused, and only the
 * five entities of XML itself.
 */
export async function readXml(chunks: AsyncIterable<Uint8Array>, receiver: XmlReceiver): Promise<void> {
  let decoder: InstanceType<typeof TextDecoder> | undefined;
  let rest = '';
  const depth: Depth = { open: 0 };
  for await (const chunk of chunks) {
    decoder ??= new TextDecoder(encodingOf(chunk), { fatal: true });
    rest = take(rest + decoded(decoder, chunk), receiver, depth);
    if (rest.length > maxPartChars) throw new FileProblem('damaged');
    if (receiver.isDone?.()) return;
  }
  if (decoder !== undefined) rest = take(rest + decoded(decoder), receiver, depth);
  if (rest.trim() !== '' || depth.open !== 0) throw new FileProblem('damaged');
}

function encodingOf([first, second]: Uint8Array): string {
  if (first === 0xff && second === 0xfe) return 'utf-16le';
  return first === 0xfe && second === 0xff ? 'utf-16be' : 'utf-8';
}

function decoded(decoder: InstanceType<typeof TextDecoder>, chunk?: Uint8Array): string {
  try {
    return decoder.decode(chunk, { stream: chunk !== undefined });
  } catch {
    throw new FileProblem('damaged');
  }
}

/** Passes on the complete parts of a text; returns what is left. */
function take(text: string, receiver: XmlReceiver, depth: Depth): string {
  let at = 0;
  for (;;) {
    const open = text.indexOf('<', at);
    if (open === -1) return text.slice(at);
    const end = partEnd(text, open);
    if (end === -1) return text.slice(at);
    if (open > at) receiver.onText?.(withoutEntities(text.slice(at, open)));
    if (text.startsWith('<![CDATA[', open)) receiver.onText?.(text.slice(open + 9, end - 3));
    else if (text[open + 1] !== '!' && text[open + 1] !== '?') tag(text, open, receiver, depth);
    at = end;
    if (receiver.isDone?.()) return '';
  }
}

function tag(text: string, at: number, receiver: XmlReceiver, depth: Depth): void {
  tagForm.lastIndex = at;
  const [, slash, qualified = '', attributes = ''] = tagForm.exec(text) ?? [];
  const name = qualified.slice(qualified.indexOf(':') + 1);
  if (slash === '') {
    depth.open++;
    receiver.onOpen(name, attributes);
  }
  if (slash === '/' || attributes.endsWith('/')) {
    depth.open--;
    receiver.onClose?.(name);
  }
}

/** The end of the part that begins with `<`; -1 if it is not complete. */
function partEnd(text: string, at: number): number {
  if (text[at + 1] === '!') {
    const rest = text.slice(at, at + 9);
    if (rest.length < 9) return -1;
    if (rest === '<![CDATA[') return endOf(text, ']]>', at + 9);
    if (rest.startsWith('<!--')) return endOf(text, '-->', at + 4);
    throw new FileProblem('damaged');
  }
  if (text[at + 1] === '?') return endOf(text, '?>', at + 2);
  if (at + 1 === text.length) return -1;
  tagForm.lastIndex = at;
  if (tagForm.test(text)) return tagForm.lastIndex;
  return -1;
}

function endOf(text: string, mark: string, from: number): number {
  const found = text.indexOf(mark, from);
  return found === -1 ? -1 : found + mark.length;
}

const attributeForm = /([^\s=/]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g;

/** The attributes of a tag, by name without prefix; `r:id` is `id`. */
export function attributesOf(text: string): Readonly<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const [, name = '', double, single] of text.matchAll(attributeForm))
    found[name.slice(name.indexOf(':') + 1)] = withoutEntities(double ?? single ?? '');
  return found;
}

const named: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function withoutEntities(text: string): string {
  if (!text.includes('&')) return text;
  return text.replace(
    /&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(\w+));/gi,
    (whole, hex?: string, decimal?: string, name = '') => {
      const code = hex === undefined ? Number(decimal ?? 'x') : Number.parseInt(hex, 16);
      if (!Number.isNaN(code)) return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
      return named[name] ?? whole;
    },
  );
}
