/** What stands for `Object.prototype` of a template's objects: Liquid asks them for their text, and would write `[object Object]`. */
const withoutText = {
  toString(): string {
    throw new Error(
      'an object cannot be written as a whole; name one of its members, as in {{ user.name }}, or use {{ user | json }}',
    );
  },
};

/**
 * Why variables cannot be rendered as they are; undefined when they can. Whole numbers above 2^53 have lost digits before they came, on protocols that do
 * not tell. Objects lose the text that they would be written with.
 */
export function findVariablesFault(variables: Readonly<Record<string, unknown>>): string | undefined {
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

/** Whether a number has the digits that it was given with. */
export function isExact(value: number): boolean {
  return !Number.isInteger(value) || Number.isSafeInteger(value);
}
