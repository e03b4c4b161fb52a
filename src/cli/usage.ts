/** A command line that cannot be followed; the message says how it is written. */
export class UsageError extends Error {}
