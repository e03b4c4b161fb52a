/** A schema that this version cannot use or update; the message is one line for the operator. */
export class MigrationError extends Error {}
