import pg from 'pg';

/** The type's own Submittable interface: what pg calls to send a query and to hand it its answers. */
interface Wire {
  readonly stream: { cork(): void; uncork(): void; write(bytes: Uint8Array): unknown };
  query(text: string): void;
  endCopyFrom(): void;
}

const signature = Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1');
const copyData = 'd'.charCodeAt(0);

/**
 * Rows for `copy … from stdin (format binary)`, written value by value in the order of the columns. Grows as it is written to; a value that was
 * begun is not moved, so that each is written once.
 */
export class CopyRows {
  #bytes: Buffer;
  #end = 5;
  readonly #columns: number;

  /** `expected`: bytes that will most likely do. */
  constructor(columns: number, expected: number) {
    this.#columns = columns;
    this.#bytes = Buffer.allocUnsafe(expected + 64);
    this.#end += signature.copy(this.#bytes, this.#end);
    this.#uint32(0); // flags
    this.#uint32(0); // header extension
  }

  /** Begins the next row. */
  row(): void {
    this.#room(2);
    this.#end = this.#bytes.writeInt16BE(this.#columns, this.#end);
  }

  smallint(value: number): void {
    this.#room(6);
    this.#uint32(2);
    this.#end = this.#bytes.writeInt16BE(value, this.#end);
  }

  /** A whole number from 0 to 2^53-1. */
  bigint(value: number): void {
    this.#room(12);
    this.#uint32(8);
    this.#uint32(Math.floor(value / 2 ** 32));
    this.#uint32(value >>> 0);
  }

  bytes(value: Uint8Array): void {
    this.#room(4 + value.length);
    this.#uint32(value.length);
    this.#bytes.set(value, this.#end);
    this.#end += value.length;
  }

  /** Bytes that are held as a string of Latin-1. */
  latin1(value: string): void {
    this.#room(4 + value.length);
    this.#uint32(value.length);
    this.#end += this.#bytes.write(value, this.#end, 'latin1');
  }

  /** UTF-8 takes at most three bytes for a unit of a JavaScript string. */
  text(value: string): void {
    this.#room(4 + value.length * 3);
    const length = this.#bytes.write(value, this.#end + 4);
    this.#uint32(length);
    this.#end += length;
  }

  /** jsonb's binary form is its text after a version byte. */
  jsonb(value: unknown): void {
    const text = JSON.stringify(value);
    this.#room(5 + text.length * 3);
    const length = this.#bytes.write(text, this.#end + 5);
    this.#uint32(length + 1);
    this.#bytes[this.#end] = 1;
    this.#end += length + 1;
  }

  null(): void {
    this.#room(4);
    this.#uint32(0xffffffff);
  }

  /** All of it as one CopyData message, its head included: pg's own way of framing copies it once more. */
  frame(): Buffer {
    this.#room(2);
    this.#end = this.#bytes.writeInt16BE(-1, this.#end);
    this.#bytes[0] = copyData;
    this.#bytes.writeUInt32BE(this.#end - 1, 1);
    return this.#bytes.subarray(0, this.#end);
  }

  #uint32(value: number): void {
    this.#end = this.#bytes.writeUInt32BE(value, this.#end);
  }

  #room(bytes: number): void {
    if (this.#end + bytes <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe((this.#end + bytes) * 2);
    this.#bytes.copy(larger, 0, 0, this.#end);
    this.#bytes = larger;
  }
}

/**
 * COPY with its data behind it, in one flight: the server reads on while it answers. pg has no COPY, and the package that adds it waits for the
 * server's word before it sends anything, on a connection that nothing else may be waiting on.
 */
class CopyQuery extends pg.Query {
  readonly #text: string;
  readonly #rows: CopyRows;

  constructor(text: string, rows: CopyRows) {
    super({ text });
    this.#text = text;
    this.#rows = rows;
  }

  override submit = (connection: unknown): void => {
    const wire = connection as Wire;
    wire.stream.cork();
    wire.query(this.#text);
    wire.stream.write(this.#rows.frame());
    wire.endCopyFrom();
    wire.stream.uncork();
  };

  /** The rows are on their way already. */
  handleCopyInResponse(): void {}
}

/** pg's client, which takes `copy … from stdin` with its rows as the one parameter. */
export class CopyingClient extends pg.Client {
  // biome-ignore lint/suspicious/noExplicitAny: pg types this method as nine overloads
  override query(...args: any[]): any {
    const [text, values] = args;
    const rows: unknown = values?.[0];
    if (!(rows instanceof CopyRows)) return super.query(...(args as [string]));
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const query = new CopyQuery(text, rows);
    Object.assign(query, {
      callback: (error: Error | null, result: unknown) => (error ? reject(error) : resolve(result)),
    });
    super.query(query);
    return promise;
  }
}
