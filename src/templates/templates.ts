import { setImmediate } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import type { Draft } from '../messages/message.ts';
import { invalidField, type Refusal, ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { FairScheduler, ScheduledCall } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout, runWithTimeout } from '../overload/watchdog.ts';
import type { Db } from '../postgres/schema.ts';
import { createRenderingScheduler, renderInSlices } from './render.ts';
import {
  type CompiledTemplate,
  compileTemplate,
  type TemplateText,
  templateFailed,
  templateMissing,
  type Variables,
} from './template.ts';
import { deleteTemplate, findTemplate, insertTemplate, listTemplates, type StoredTemplate } from './templates.sql.ts';

/** A stored version, and the names that it takes from its variables. */
export interface DescribedTemplate extends StoredTemplate {
  readonly variables: readonly string[];
}

/** A message's template, and what goes into it. */
export interface TemplateUse {
  readonly name: string;
  /** 0: the latest. */
  readonly version: number;
  readonly variables?: Variables | undefined;
}

/** A draft that has its payload, or a template instead of it. */
export interface TemplatedDraft extends Draft {
  readonly template?: TemplateUse | undefined;
}

/** Drafts with their payloads, and by index why some have none. */
export interface RenderedDrafts {
  readonly drafts: readonly Draft[];
  readonly refused: ReadonlyMap<number, Refusal>;
}

/** For whom, and what of it. */
export interface RenderOptions {
  /** The caller whose share of the process's rendering it takes. */
  readonly caller?: string;
  /** Aborted when the caller disconnects. */
  readonly signal?: AbortSignal | undefined;
  /** By index: what is refused already is not rendered. */
  readonly skip?: (index: number) => boolean;
  /** The time that `now` means, in milliseconds since 1970; unset: when it is rendered. */
  readonly at?: number | undefined;
}

export interface Templates {
  /** Renders; `own` are the request's own templates, which go before stored ones. */
  render(
    drafts: readonly TemplatedDraft[],
    ownTemplates: readonly TemplateText[],
    options?: RenderOptions,
  ): Promise<RenderedDrafts>;
  create(text: TemplateText): Promise<DescribedTemplate>;
  get(name: string, version: number): Promise<DescribedTemplate>;
  /** The version of a stored one, or its latest for 0; undefined when there is none. */
  findVersion(name: string, version: number): Promise<number | undefined>;
  list(after: string, limit: number): Promise<DescribedTemplate[]>;
  remove(name: string): Promise<void>;
  preview(text: TemplateText | TemplateUse, variables: Variables): Promise<Uint8Array>;
}

/** Milliseconds that a stored template is known without asking again: a new version is in force after at most this long. */
const storedCacheMs = 1000;
const storedCacheSize = 1000;
/** Compiled ones, by their text: a version never changes. Of the largest, a hundred times what they are as text, 1000 would be 6 GB. */
const compiledCacheSize = 1000;
const compiledCacheBytes = 64 * 1024 * 1024;
/** What one that is none holds: its text and why. */
const faultBytes = 256 * 1024;
/** Milliseconds in which it is found out which variables a template needs: of a sane one it is less than one. */
const namesMs = 50;

export function createTemplates(
  db: Db,
  now: () => number = Date.now,
  scheduler: FairScheduler = createRenderingScheduler(),
): Templates {
  const storedCache = new LRUCache<string, { found: Promise<StoredTemplate | undefined> }>({
    max: storedCacheSize,
    ttl: storedCacheMs,
    ttlResolution: 0,
  });
  const compiledCache = new LRUCache<string, CompiledTemplate | { readonly fault: string }>({
    max: compiledCacheSize,
    maxSize: compiledCacheBytes,
    sizeCalculation: (each) => ('fault' in each ? faultBytes : each.bytes),
  });

  const findCached = (name: string, version: number): Promise<StoredTemplate | undefined> => {
    const key = `${name} ${version}`;
    const found = storedCache.get(key)?.found ?? findTemplate(db, name, version);
    storedCache.set(key, { found }, { noUpdateTTL: true });
    found.catch(() => storedCache.delete(key));
    return found;
  };
  const textKey = ({ name, format, body }: TemplateText) => `${name} ${format} ${body}`;
  const compile = (text: TemplateText): CompiledTemplate | { readonly fault: string } => {
    const key = textKey(text);
    const result = compiledCache.get(key) ?? compileTemplate(text);
    compiledCache.set(key, result);
    return result;
  };
  const compileOrThrow = (text: TemplateText, field: string): CompiledTemplate => {
    const result = compile(text);
    if ('fault' in result) throw invalidField(field, `is not a valid template: ${result.fault}`);
    return result;
  };

  const describe = (stored: StoredTemplate): DescribedTemplate => {
    const template = compile(stored);
    let variables: readonly string[] = [];
    try {
      if (!('fault' in template))
        runWithTimeout(namesMs, () => {
          variables = template.variables();
        });
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
    }
    return { ...stored, variables };
  };

  const runScheduled = async <T>(call: ScheduledCall, work: () => T): Promise<T> => {
    const results: T[] = [];
    await scheduler.run(call, () => {
      results.push(work());
      return { isDone: true };
    });
    return results[0] as T;
  };

  const get = (name: string, version: number): Promise<StoredTemplate> =>
    orBusy(async () => {
      const found = await findTemplate(db, name, version);
      if (found === undefined) throw new ServiceError(templateMissing(name, version));
      return found;
    });

  return {
    async render(drafts, ownTemplates, { caller = '', signal, skip = () => false, at } = {}) {
      if (ownTemplates.length === 0 && drafts.every((draft) => draft.template === undefined))
        return { drafts, refused: new Map() };
      const scheduledCall: ScheduledCall = {
        caller,
        signal,
        weigh: () => drafts.reduce((sum, draft) => sum + estimateBytes(draft), 0),
      };
      const ready = new Map<string, CompiledTemplate | undefined>();
      const prepare = async (key: string, text: TemplateText, field: string) => {
        const template = compiledCache.has(textKey(text))
          ? compileOrThrow(text, field)
          : await runScheduled(scheduledCall, () => compileOrThrow(text, field));
        ready.set(key, template);
        return template.bytes;
      };
      let bytes = 0;
      for (const [index, text] of ownTemplates.entries()) {
        if (ready.has(`${text.name} 0`)) throw invalidField(`templates[${index}].name`, 'must not be repeated');
        bytes += await prepare(`${text.name} 0`, text, `templates[${index}].body`);
        if (bytes > compiledCacheBytes)
          throw invalidField(
            `templates[${index}]`,
            'is too large together with those before it; send fewer or smaller templates',
          );
      }
      for (const [index, { template: use }] of drafts.entries()) {
        if (use === undefined || skip(index) || ready.has(keyOf(use))) continue;
        const stored = await orBusy(() => findCached(use.name, use.version));
        if (stored === undefined) ready.set(keyOf(use), undefined);
        else await prepare(keyOf(use), stored, `messages[${index}].template`);
      }
      const refused = new Map<number, Refusal>();
      const rendered: Draft[] = [...drafts];
      await renderInSlices(scheduler, scheduledCall, {
        count: drafts.length,
        isBounded: [...ready.values()].every((each) => each === undefined || each.isPlain),
        render(index) {
          const draft = drafts[index] as TemplatedDraft;
          const { template: use } = draft;
          if (use === undefined || skip(index)) return;
          const result = ready.get(keyOf(use))?.render(use.variables ?? {}, at) ?? {
            refusal: templateMissing(use.name, use.version),
          };
          if ('refusal' in result) {
            if (result.timeout !== undefined) throw new ExecutionTimeout(result.timeout);
            refused.set(index, result.refusal);
          } else rendered[index] = { ...draft, payload: result.payload };
        },
        refuse(index, why) {
          const use = drafts[index]?.template;
          if (use !== undefined) refused.set(index, templateFailed(use.name, why));
        },
      });
      return { drafts: rendered, refused };
    },
    create: (text) =>
      orBusy(async () => {
        compileOrThrow(text, 'body');
        const stored = await insertTemplate(db, text, now());
        storedCache.delete(`${text.name} 0`);
        return describe(stored);
      }),
    get: async (name, version) => describe(await get(name, version)),
    async findVersion(name, version) {
      // That there is none is asked of the database: it is final for a batch.
      const found =
        (await orBusy(() => findCached(name, version))) ?? (await orBusy(() => findTemplate(db, name, version)));
      return found?.version;
    },
    async list(after, limit) {
      const described: DescribedTemplate[] = [];
      for (const each of await orBusy(() => listTemplates(db, after, limit))) {
        described.push(describe(each));
        await setImmediate();
      }
      return described;
    },
    remove: (name) =>
      orBusy(async () => {
        if (!(await deleteTemplate(db, name))) throw new ServiceError(templateMissing(name, 0));
        storedCache.clear();
      }),
    async preview(text, variables) {
      const found = 'body' in text ? text : await get(text.name, text.version);
      const template = compileOrThrow(found, 'body');
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
            result = { refusal: templateFailed(found.name, why) };
          },
        },
      );
      if (result === undefined) throw new Error('nothing was rendered');
      if ('refusal' in result) throw new ServiceError(result.refusal);
      return result.payload;
    },
  };
}

const keyOf = ({ name, version }: TemplateUse): string => `${name} ${version}`;

/** About how many bytes a draft holds: its variables, for the most part. */
function estimateBytes({ payload, template }: TemplatedDraft): number {
  return 256 + payload.length + estimateValueBytes(template?.variables);
}

function estimateValueBytes(value: unknown): number {
  if (typeof value === 'string') return 16 + 2 * value.length;
  if (typeof value !== 'object' || value === null) return 16;
  let weight = 32;
  for (const name in value) weight += 2 * name.length + estimateValueBytes((value as Record<string, unknown>)[name]);
  return weight;
}
