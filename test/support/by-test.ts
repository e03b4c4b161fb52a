/** Begins statements of tests, for which the rules of Citus do not hold. */
export const byTest = '/* by a test */ ';
