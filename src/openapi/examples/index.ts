import type { Example } from '../example.ts';
import { admin } from './admin.ts';
import { batches } from './batches.ts';
import { changes } from './changes.ts';
import { channels } from './channels.ts';
import { keys } from './keys.ts';
import { moderation } from './moderation.ts';
import { reading } from './reading.ts';
import { sending } from './sending.ts';
import { templates } from './templates.ts';
import { webhooks } from './webhooks.ts';

/**
 * All examples of the document, at least one per operation. A test sends them in this order to an
 * empty database with default settings, and compares the answers.
 */
export const examples: readonly Example[] = [
  ...channels,
  ...templates,
  ...sending,
  ...reading,
  ...changes,
  ...moderation,
  ...batches,
  ...webhooks,
  ...keys,
  ...admin,
];
