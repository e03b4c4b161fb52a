import type { Cancellation } from '../messages/cancellation.ts';
import type { Draft } from '../messages/message.ts';
import { invalidField, type Refusal } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { FairScheduler, ScheduledCall } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout } from '../overload/watchdog.ts';
import { templateFailed, templateMissing } from './refusals.ts';
import { renderInSlices } from './render.ts';
import type { CompiledTemplate, TemplateText } from './template.ts';
import { maxCompiledBytes, type TemplateCache } from './template-cache.ts';
import type { Variables } from './variables.ts';

/** The template of a message, with its variables. */
export interface TemplateUse {
  readonly name: string;
  /** 0: the latest. */
  readonly version: number;
  readonly variables?: Variables | undefined;
}

/** A draft with a payload, or with a template instead. */
export interface TemplatedDraft extends Draft {
  readonly template?: TemplateUse | undefined;
}

/** Drafts with their payloads, and refusals by index. */
export interface RenderedDrafts {
  readonly drafts: readonly Draft[];
  readonly refused: ReadonlyMap<number, Refusal>;
}

export interface RenderOptions {
  /** The caller whose share of the rendering time is used. */
  readonly caller?: string;
  /** Aborts when the caller disconnects. */
  readonly signal?: Cancellation | undefined;
  /** Whether the draft at an index is refused already, and is not rendered. */
  readonly skip?: (index: number) => boolean;
  /** The value of `now`, in milliseconds since 1970; unset: the time of rendering. */
  readonly at?: number | undefined;
}

export interface RenderParts {
  readonly cache: TemplateCache;
  readonly scheduler: FairScheduler;
}

/** Compiled templates by `<name> <version>`; undefined: it does not exist. */
type ReadyTemplates = ReadonlyMap<string, CompiledTemplate | undefined>;

/**
 * Renders the drafts that have a template. The request's own templates take precedence over stored
 * ones.
 */
export async function renderDrafts(
  parts: RenderParts,
  drafts: readonly TemplatedDraft[],
  ownTemplates: readonly TemplateText[],
  { caller = '', signal, skip = () => false, at }: RenderOptions = {},
): Promise<RenderedDrafts> {
  if (ownTemplates.length === 0 && drafts.every((draft) => draft.template === undefined))
    return { drafts, refused: new Map() };
  const call: ScheduledCall = {
    caller,
    signal,
    weigh: () => drafts.reduce((sum, draft) => sum + estimateBytes(draft), 0),
  };
  const ready = await prepareTemplates(parts, call, { drafts, ownTemplates, skip });
  const refused = new Map<number, Refusal>();
  const rendered: Draft[] = [...drafts];
  await renderInSlices(parts.scheduler, call, {
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
}

/** Finds and compiles the templates of a batch. */
async function prepareTemplates(
  { cache, scheduler }: RenderParts,
  call: ScheduledCall,
  {
    drafts,
    ownTemplates,
    skip,
  }: {
    readonly drafts: readonly TemplatedDraft[];
    readonly ownTemplates: readonly TemplateText[];
    readonly skip: (index: number) => boolean;
  },
): Promise<ReadyTemplates> {
  const ready = new Map<string, CompiledTemplate | undefined>();
  const compile = async (text: TemplateText, field: string) => {
    if (cache.isCompiled(text)) return cache.compile(text, field);
    const results: CompiledTemplate[] = [];
    await scheduler.run(call, () => {
      results.push(cache.compile(text, field));
      return { isDone: true };
    });
    return results[0] as CompiledTemplate;
  };
  let bytes = 0;
  for (const [index, text] of ownTemplates.entries()) {
    const key = keyOf({ name: text.name, version: 0 });
    if (ready.has(key)) throw invalidField(`templates[${index}].name`, 'must not be repeated');
    const template = await compile(text, `templates[${index}].body`);
    ready.set(key, template);
    bytes += template.bytes;
    if (bytes > maxCompiledBytes)
      throw invalidField(
        `templates[${index}]`,
        'is too large together with those before it; send fewer or smaller templates',
      );
  }
  for (const [index, { template: use }] of drafts.entries()) {
    if (use === undefined || skip(index) || ready.has(keyOf(use))) continue;
    const stored = await orBusy(() => cache.find(use.name, use.version));
    ready.set(keyOf(use), stored && (await compile(stored, `messages[${index}].template`)));
  }
  return ready;
}

const keyOf = ({ name, version }: TemplateUse): string => `${name} ${version}`;

/** Approximate bytes of a draft in memory: mostly its variables. */
function estimateBytes({ payload, template }: TemplatedDraft): number {
  return 256 + payload.length + estimateValueBytes(template?.variables);
}

function estimateValueBytes(value: unknown): number {
  if (typeof value === 'string') return 16 + 2 * value.length;
  if (typeof value !== 'object' || value === null) return 16;
  let bytes = 32;
  for (const name in value) bytes += 2 * name.length + estimateValueBytes((value as Record<string, unknown>)[name]);
  return bytes;
}
