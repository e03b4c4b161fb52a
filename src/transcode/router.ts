import type { Binding } from './binding.ts';
import { TranscodeError } from './error.ts';
import { Trie } from './trie.ts';

/**
 * The bindings of a path and a verb, which differ in the root of their body; or the allowed verbs
 * when none of them takes this verb.
 */
export type Route =
  | { readonly bindings: readonly Binding[]; readonly segments: readonly string[] }
  | { readonly allow: readonly string[] };

const everyVerb = ['DELETE', 'GET', 'PATCH', 'POST', 'PUT'];

/** Bounds the memory: percent-encoding gives one path many spellings. */
const rememberedPaths = 1000;

/** Finds the route of a verb and a path. */
export class Router {
  readonly #trie = new Trie<Binding[]>();
  /** The routes of paths that match a template without variables, by path and verb. */
  readonly #fixed = new Map<string, Map<string, Route>>();

  constructor(bindings: readonly Binding[]) {
    for (const binding of bindings) this.#trie.at(binding.template, () => []).push(binding);
  }

  /**
   * Returns the best template that takes the verb; undefined when no template matches the path.
   *
   * GET on /users/me does not hide DELETE of /users/{id}. HEAD is GET without a body. OPTIONS needs
   * a binding of its own: `*` stands for the verbs that act.
   */
  find(verb: string, path: string): Route | undefined {
    return this.#fixed.get(path)?.get(verb) ?? this.#search(verb, path);
  }

  #search(verb: string, path: string): Route | undefined {
    const allow = new Set<string>();
    for (const { value, segments } of this.#trie.find(path.replace(/^\//, '').split('/'))) {
      refuseUndecodable(segments);
      for (const wanted of wantedBy(verb)) {
        const bindings = value.filter((binding) => binding.verb === wanted);
        if (bindings.length > 0) return this.#remember(verb, path, { bindings, segments });
      }
      for (const binding of value)
        for (const each of binding.verb === '*' ? everyVerb : [binding.verb]) allow.add(each);
    }
    if (allow.size === 0) return undefined;
    if (allow.has('GET')) allow.add('HEAD');
    return { allow: [...allow.add('OPTIONS')].sort() };
  }

  #remember(verb: string, path: string, route: Extract<Route, { bindings: unknown }>): Route {
    const isFixed = route.bindings.every(({ template }) => template.segments.every((each) => typeof each !== 'string'));
    if (!isFixed || this.#fixed.size >= rememberedPaths) return route;
    const verbs = this.#fixed.get(path) ?? new Map<string, Route>();
    this.#fixed.set(path, verbs.set(verb, route));
    return route;
  }
}

function wantedBy(verb: string): readonly string[] {
  if (verb === 'HEAD') return ['HEAD', 'GET', '*'];
  return verb === 'OPTIONS' ? ['OPTIONS'] : [verb, '*'];
}

function refuseUndecodable(segments: readonly string[]): void {
  try {
    segments.forEach(decodeURIComponent);
  } catch {
    const description = 'has a percent-encoding that is not UTF-8';
    throw new TranscodeError(400, `path: ${description}`, [{ field: 'path', description }]);
  }
}

/**
 * Splits a URL into path and query, unchanged. `URL` would resolve `..` and take `//name` for a
 * host.
 */
export function splitUrl(url: string): { path: string; search: string } {
  const [, path = '', search = ''] = /^(?:[a-z][a-z\d+.-]*:\/\/[^/?#]*)?([^?#]*)(?:\?([^#]*))?/i.exec(url) ?? [];
  return { path, search };
}
