/** Variables of one message. */
export type Variables = Readonly<Record<string, unknown>>;

/**
 * Prototype of objects in variables: Liquid calls `toString`, and would write `[object Object]`.
 */
const withoutText = {
  toString(): string {
    throw new Error(
      'an object cannot be written as a whole; name one of its members, as in {{ user.name }}, or use {{ user | json }}',
    );
  },
};

/**
 * Why variables cannot be rendered; undefined: they can. Integers above 2^53 lost digits in a
 * protocol that cannot report it. Also sets the prototype of objects, so that writing one as a
 * whole throws.
 */
export function findVariablesFault(variables: Variables): string | undefined {
  for (const [name, value] of Object.entries(variables)) {
    const fault = findFault(value, name);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function findFault(value: unknown, path: string): string | undefined {
  if (typeof value === 'number')
    return isExact(value) ? undefined : `${path} is an integer above 2^53, which loses digits; give it as a string`;
  if (typeof value !== 'object' || value === null) return undefined;
  const isArray = Array.isArray(value);
  if (!isArray) Object.setPrototypeOf(value, withoutText);
  for (const key of Object.keys(value)) {
    const fault = findFault((value as Record<string, unknown>)[key], isArray ? `${path}[${key}]` : `${path}.${key}`);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

/** Whether a number has all the digits that the caller sent. */
export function isExact(value: number): boolean {
  return !Number.isInteger(value) || Number.isSafeInteger(value);
}
