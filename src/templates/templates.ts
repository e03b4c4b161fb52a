// Templates: stored with versions, or sent with a request, rendered per message.
//
// Entry points: `createTemplates` (management, rendering of sends, preview). A template is compiled
// once (template-cache.ts); plain ones are joined by hand (plain-template.ts), others rendered by
// liquidjs (template.ts). Invariants:
//  1. One slice of rendering runs at a time per process, fairly per caller (render.ts).
//  2. A version never changes, and its number is never reused.
//  3. A message that cannot be rendered is refused alone; the others of its batch are sent.

import { setImmediate } from 'node:timers/promises';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { FairScheduler } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout } from '../overload/watchdog.ts';
import type { Db } from '../postgres/schema.ts';
import { templateFailed, templateMissing } from './refusals.ts';
import { createRenderingScheduler, renderInSlices } from './render.ts';
import {
  type RenderedDrafts,
  type RenderOptions,
  renderDrafts,
  type TemplatedDraft,
  type TemplateUse,
} from './render-drafts.ts';
import type { CompiledTemplate, TemplateText } from './template.ts';
import { TemplateCache } from './template-cache.ts';
import {
  deleteTemplate,
  findTemplate,
  insertTemplate,
  listTemplates,
  listVersions,
  type StoredTemplate,
} from './templates.sql.ts';
import type { Variables } from './variables.ts';

/** Above every version: versions are 32-bit integers. */
const maxVersion = 2 ** 31 - 1;

/** A stored version with the names of its variables. */
export interface DescribedTemplate extends StoredTemplate {
  readonly variables: readonly string[];
}

/** Management and rendering of templates. */
export interface Templates {
  /** Renders drafts. `ownTemplates`: the request's own, which take precedence over stored ones. */
  render(
    drafts: readonly TemplatedDraft[],
    ownTemplates: readonly TemplateText[],
    options?: RenderOptions,
  ): Promise<RenderedDrafts>;
  create(text: TemplateText): Promise<DescribedTemplate>;
  get(name: string, version: number): Promise<DescribedTemplate>;
  /** The number of a stored version, or of the latest for 0; undefined: it does not exist. */
  findVersion(name: string, version: number): Promise<number | undefined>;
  list(after: string, limit: number): Promise<DescribedTemplate[]>;
  /** The versions of a name below `before`, latest first; throws if the name has none at all. */
  versions(name: string, before: number | undefined, limit: number): Promise<DescribedTemplate[]>;
  remove(name: string): Promise<void>;
  preview(text: TemplateText | TemplateUse, variables: Variables): Promise<Uint8Array>;
}

export function createTemplates(
  db: Db,
  now: () => number = Date.now,
  scheduler: FairScheduler = createRenderingScheduler(),
): Templates {
  const cache = new TemplateCache(db);
  const describe = (stored: StoredTemplate): DescribedTemplate => ({ ...stored, variables: cache.variablesOf(stored) });
  /** Each template is parsed for its variables: other calls take turns in between. */
  const describeAll = async (stored: readonly StoredTemplate[]): Promise<DescribedTemplate[]> => {
    const described: DescribedTemplate[] = [];
    for (const each of stored) {
      described.push(describe(each));
      await setImmediate();
    }
    return described;
  };
  const getStored = (name: string, version: number): Promise<StoredTemplate> =>
    orBusy(async () => {
      const found = await findTemplate(db, name, version);
      if (found === undefined) throw new ServiceError(templateMissing(name, version));
      return found;
    });

  return {
    render: (drafts, ownTemplates, options) => renderDrafts({ cache, scheduler }, drafts, ownTemplates, options),
    create: (text) =>
      orBusy(async () => {
        cache.compile(text, 'body');
        const stored = await insertTemplate(db, text, now());
        cache.forgetLatest(text.name);
        return describe(stored);
      }),
    get: async (name, version) => describe(await getStored(name, version)),
    async findVersion(name, version) {
      // A cached absence is checked in the database, since it is final for a batch.
      const found =
        (await orBusy(() => cache.find(name, version))) ?? (await orBusy(() => findTemplate(db, name, version)));
      return found?.version;
    },
    list: async (after, limit) => await describeAll(await orBusy(() => listTemplates(db, after, limit))),
    async versions(name, before = maxVersion, limit) {
      const found = await orBusy(() => listVersions(db, name, before, limit));
      if (found.length === 0) await getStored(name, 0);
      return await describeAll(found);
    },
    remove: (name) =>
      orBusy(async () => {
        if (!(await deleteTemplate(db, name))) throw new ServiceError(templateMissing(name, 0));
        cache.forgetStored();
      }),
    async preview(text, variables) {
      const source = 'body' in text ? text : await getStored(text.name, text.version);
      return await renderOne(scheduler, cache.compile(source, 'body'), source.name, variables);
    },
  };
}

/** Renders a single message; throws if it is refused. */
async function renderOne(
  scheduler: FairScheduler,
  template: CompiledTemplate,
  name: string,
  variables: Variables,
): Promise<Uint8Array> {
  let result: ReturnType<CompiledTemplate['render']> | undefined;
  await renderInSlices(
    scheduler,
    { caller: '' },
    {
      count: 1,
      isBounded: template.isPlain,
      render: () => {
        result = template.render(variables);
        if ('refusal' in result && result.timeout !== undefined) throw new ExecutionTimeout(result.timeout);
      },
      refuse: (_, why) => {
        result = { refusal: templateFailed(name, why) };
      },
    },
  );
  if (result === undefined) throw new Error('nothing was rendered');
  if ('refusal' in result) throw new ServiceError(result.refusal);
  return result.payload;
}
