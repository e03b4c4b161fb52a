import type { Example } from '../example.ts';
import { batches } from './batches.ts';
import { channels } from './channels.ts';
import { moderation } from './moderation.ts';
import { reading } from './reading.ts';
import { sending } from './sending.ts';
import { templates } from './templates.ts';
import { webhooks } from './webhooks.ts';

/**
 * Every example of the document, in an order in which they succeed one after the other on an empty database with the default settings: a test posts them all and compares the answers.
 * Each operation has at least one.
 */
export const examples: readonly Example[] = [
  ...channels,
  ...templates,
  ...sending,
  ...reading,
  ...moderation,
  ...batches,
  ...webhooks,
];
