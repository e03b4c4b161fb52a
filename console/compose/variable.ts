/** Names that Liquid reads as values or operators. */
const reserved: ReadonlySet<string> = new Set('true false nil null empty blank and or not contains'.split(' '));

/** The variable of a column, in the syntax of templates. */
export function variableOf(column: string): string {
  // Others need brackets.
  return /^[\p{L}_][\p{L}\p{N}_]*$/u.test(column) && !reserved.has(column)
    ? `{{ ${column} }}`
    : `{{ [${JSON.stringify(column)}] }}`;
}
