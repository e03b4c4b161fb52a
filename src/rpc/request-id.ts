import { parseItem } from 'structured-headers';
import { limits } from '../limits.ts';
import { invalidField } from '../messages/service-error.ts';

/** The batch's request id: the field, or the header `Idempotency-Key`. */
export function requestIdOf(field: string, idempotencyKey: string | null): string {
  if (idempotencyKey === null) return field;
  const key = keyOf(idempotencyKey);
  if (field !== '' && key !== field)
    throw invalidField('request_id', 'must equal the header Idempotency-Key; set only one of them');
  const bytes = Buffer.byteLength(key);
  if (bytes === 0 || bytes > limits.requestIdBytes) {
    throw invalidField('Idempotency-Key', `must be 1 to ${limits.requestIdBytes} bytes, not ${bytes}`, {
      limit: String(limits.requestIdBytes),
      actual: String(bytes),
    });
  }
  return key;
}

/**
 * Visible ASCII without the characters that structured fields reserve; a comma also joins two
 * headers.
 */
const bareKey = /^[\x21-\x7e]+$/;
const meaningful = /[",;]/;

/**
 * The draft (draft-ietf-httpapi-idempotency-key-header) defines a quoted String of structured
 * fields (RFC 9651). Older clients send the key bare; it is accepted where it is unambiguous.
 */
function keyOf(header: string): string {
  const text = header.trim();
  if (!text.startsWith('"')) {
    if (bareKey.test(text) && !meaningful.test(text)) return text;
    throw malformed(header);
  }
  let item: ReturnType<typeof parseItem>;
  try {
    item = parseItem(text);
  } catch {
    throw malformed(header);
  }
  const [value, parameters] = item;
  if (typeof value !== 'string' || parameters.size > 0) throw malformed(header);
  return value;
}

function malformed(header: string): Error {
  const shown = JSON.stringify(header.length > 64 ? `${header.slice(0, 64)}…` : header);
  return invalidField(
    'Idempotency-Key',
    `must be one key in double quotes, as in "8e03978e-40d5", or visible ASCII without quotes, commas and semicolons, not ${shown}`,
  );
}
