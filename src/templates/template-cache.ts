import { LRUCache } from 'lru-cache';
import { invalidField } from '../messages/service-error.ts';
import { ExecutionTimeout, runWithTimeout } from '../overload/watchdog.ts';
import type { Db } from '../postgres/schema.ts';
import { secondMs } from '../time.ts';
import { type CompiledTemplate, compileTemplate, type TemplateText } from './template.ts';
import { findTemplate, type StoredTemplate } from './templates.sql.ts';

/** Lifetime of a cached stored template: a new version is in use after at most this long. */
const storedMs = secondMs;
const maxStored = 1000;
const maxCompiled = 1000;
/**
 * Bytes of compiled templates: 1,000 of the largest, a hundred times their source, would be 6 GB.
 */
export const maxCompiledBytes = 64 * 1024 * 1024;
/** Bytes counted for an invalid template: its source and the fault. */
const faultBytes = 256 * 1024;
/** Time limit for finding a template's variables; a usual one takes less than 1 ms. */
const variablesMs = 50;

/** Caches stored templates by name and version, and compiled ones by their source. */
export class TemplateCache {
  readonly #db: Db;
  readonly #stored = new LRUCache<string, { found: Promise<StoredTemplate | undefined> }>({
    max: maxStored,
    ttl: storedMs,
    ttlResolution: 0,
  });
  readonly #compiled = new LRUCache<string, CompiledTemplate | { readonly fault: string }>({
    max: maxCompiled,
    maxSize: maxCompiledBytes,
    sizeCalculation: (each) => ('fault' in each ? faultBytes : each.bytes),
  });

  constructor(db: Db) {
    this.#db = db;
  }

  /** Finds a stored version, or the latest for 0. Concurrent calls share one statement. */
  find(name: string, version: number): Promise<StoredTemplate | undefined> {
    const key = `${name} ${version}`;
    const found = this.#stored.get(key)?.found ?? findTemplate(this.#db, name, version);
    this.#stored.set(key, { found }, { noUpdateTTL: true });
    found.catch(() => this.#stored.delete(key));
    return found;
  }

  /** Forgets the latest version of a name. */
  forgetLatest(name: string): void {
    this.#stored.delete(`${name} 0`);
  }

  /** Forgets all stored templates; compiled ones stay valid. */
  forgetStored(): void {
    this.#stored.clear();
  }

  isCompiled(text: TemplateText): boolean {
    return this.#compiled.has(sourceKey(text));
  }

  /** Compiles a template; throws an error about `field` if it is invalid. */
  compile(text: TemplateText, field: string): CompiledTemplate {
    const result = this.#compileOrFault(text);
    if ('fault' in result) throw invalidField(field, `is not a valid template: ${result.fault}`);
    return result;
  }

  /** The names of a template's variables; none if it is invalid or takes too long. */
  variablesOf(text: TemplateText): readonly string[] {
    const template = this.#compileOrFault(text);
    let variables: readonly string[] = [];
    try {
      if (!('fault' in template))
        runWithTimeout(variablesMs, () => {
          variables = template.variables();
        });
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
    }
    return variables;
  }

  #compileOrFault(text: TemplateText): CompiledTemplate | { readonly fault: string } {
    const key = sourceKey(text);
    const result = this.#compiled.get(key) ?? compileTemplate(text);
    this.#compiled.set(key, result);
    return result;
  }
}

function sourceKey({ name, format, body }: TemplateText): string {
  return `${name} ${format} ${body}`;
}
