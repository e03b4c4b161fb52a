import { setImmediate, setTimeout } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import { Failure, invalidField, type Refusal } from '../domain/failure.ts';
import type { Draft } from '../domain/message.ts';
import {
  type CompiledTemplate,
  compileTemplate,
  outOfTime,
  type TemplateText,
  templateMissing,
  type Variables,
} from '../domain/template.ts';
import type { Db } from '../storage/database.ts';
import {
  deleteTemplate,
  findTemplate,
  insertTemplate,
  listTemplates,
  type StoredTemplate,
} from '../storage/template.ts';
import { orBusy } from './store-busy.ts';

export type { StoredTemplate };

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
export interface Rendered {
  readonly drafts: readonly Draft[];
  readonly refused: ReadonlyMap<number, Refusal>;
}

export interface Templates {
  /** Renders; `own` are the request's own templates, which go before stored ones. */
  render(drafts: readonly TemplatedDraft[], own: readonly TemplateText[]): Promise<Rendered>;
  create(text: TemplateText): Promise<StoredTemplate>;
  get(name: string, version: number): Promise<StoredTemplate>;
  /** The latest version of a stored one; undefined when there is none. */
  latest(name: string): Promise<number | undefined>;
  list(after: string, limit: number): Promise<StoredTemplate[]>;
  remove(name: string): Promise<void>;
  preview(text: TemplateText | TemplateUse, variables: Variables): Promise<Uint8Array>;
}

/** Milliseconds that a stored template is known without asking again: a new version is in force after at most this long. */
const memoryMs = 1000;
const remembered = 1000;
/** Milliseconds that a call renders before others have their turn; after a rendering that takes longer by itself they have as much time as it took. */
const turnMs = 10;
/** Milliseconds that all renderings of a call may take: each of its 1000 messages may take 50 and, of a paused process, 50 again; 1000 ordinary ones take 2 to 30 in all. */
const callMs = 2000;
/** Compiled ones, by their text: a version never changes. */
const compiledKept = 1000;

export function createTemplates(db: Db, now: () => number = Date.now): Templates {
  const known = new LRUCache<string, { found: Promise<StoredTemplate | undefined> }>({
    max: remembered,
    ttl: memoryMs,
    ttlResolution: 0,
  });
  const compiled = new LRUCache<string, CompiledTemplate | { readonly fault: string }>({ max: compiledKept });

  const look = (name: string, version: number): Promise<StoredTemplate | undefined> => {
    const key = `${name} ${version}`;
    const found = known.get(key)?.found ?? findTemplate(db, name, version);
    known.set(key, { found }, { noUpdateTTL: true });
    found.catch(() => known.delete(key));
    return found;
  };
  const compile = (text: TemplateText): CompiledTemplate | { readonly fault: string } => {
    const key = `${text.name} ${text.format} ${text.body}`;
    const result = compiled.get(key) ?? compileTemplate(text);
    compiled.set(key, result);
    return result;
  };
  const usable = (text: TemplateText, field: string): CompiledTemplate => {
    const result = compile(text);
    if ('fault' in result) throw invalidField(field, `is no template: ${result.fault}`);
    return result;
  };

  const get = (name: string, version: number): Promise<StoredTemplate> =>
    orBusy(async () => {
      const found = await findTemplate(db, name, version);
      if (found === undefined) throw new Failure(templateMissing(name, version));
      return found;
    });

  return {
    async render(drafts, own) {
      if (own.length === 0 && drafts.every((draft) => draft.template === undefined))
        return { drafts, refused: new Map() };
      const ready = new Map<string, CompiledTemplate | undefined>();
      for (const [index, text] of own.entries()) {
        if (ready.has(`${text.name} 0`)) throw invalidField(`templates[${index}].name`, 'is given twice');
        ready.set(`${text.name} 0`, usable(text, `templates[${index}].body`));
      }
      const refused = new Map<number, Refusal>();
      const rendered: Draft[] = [];
      let spentMs = 0;
      let sliceMs = 0;
      let began = performance.now();
      for (const [index, draft] of drafts.entries()) {
        const { template: use } = draft;
        rendered.push(draft);
        if (use === undefined) continue;
        const key = `${use.name} ${use.version}`;
        if (!ready.has(key)) {
          const stored = await orBusy(() => look(use.name, use.version));
          ready.set(key, stored && usable(stored, `messages[${index}].template`));
          began = performance.now();
        }
        const template = ready.get(key);
        if (template === undefined) {
          refused.set(index, templateMissing(use.name, use.version));
          continue;
        }
        if (spentMs > callMs) {
          refused.set(index, outOfTime(use.name, callMs));
          continue;
        }
        const result = template.render(use.variables ?? {});
        const ended = performance.now();
        const tookMs = ended - began;
        began = ended;
        spentMs += tookMs;
        sliceMs += tookMs;
        if (sliceMs > turnMs) {
          await (tookMs > turnMs ? setTimeout(tookMs) : setImmediate());
          sliceMs = 0;
          began = performance.now();
        }
        if ('refusal' in result) refused.set(index, result.refusal);
        else rendered[index] = { ...draft, payload: result.payload };
      }
      return { drafts: rendered, refused };
    },
    create: (text) =>
      orBusy(async () => {
        usable(text, 'body');
        const stored = await insertTemplate(db, text, now());
        known.delete(`${text.name} 0`);
        return stored;
      }),
    get,
    latest: async (name) => (await orBusy(() => look(name, 0)))?.version,
    list: (after, limit) => orBusy(() => listTemplates(db, after, limit)),
    remove: (name) =>
      orBusy(async () => {
        if (!(await deleteTemplate(db, name))) throw new Failure(templateMissing(name, 0));
        known.clear();
      }),
    async preview(text, variables) {
      const found = 'body' in text ? text : await get(text.name, text.version);
      const result = usable(found, 'body').render(variables);
      if ('refusal' in result) throw new Failure(result.refusal);
      return result.payload;
    },
  };
}
