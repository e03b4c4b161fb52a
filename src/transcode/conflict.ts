import type { Binding } from './binding.ts';

/**
 * Returns the conflicts between bindings. Two may share a verb and a path only when the JSON root
 * of the body, object or array, tells them apart.
 */
export function conflictsOf(bindings: readonly Binding[]): string[] {
  const seen = new Map<string, Binding[]>();
  const mistakes: string[] = [];
  for (const binding of bindings) {
    const place = placeOf(binding);
    const others = seen.get(place) ?? [];
    const clash = others.find(
      (other) =>
        other.root === binding.root || [other, binding].some(({ root }) => root === 'none' || root === 'other'),
    );
    if (clash !== undefined) {
      mistakes.push(
        `${nameOf(binding)} and ${nameOf(clash)} have the same route ${binding.verb} ${binding.template.text}, and no JSON root tells them apart`,
      );
    }
    seen.set(place, [...others, binding]);
  }
  return mistakes;
}

/** Equal for templates that match the same paths, whatever the names of their variables. */
function placeOf({ verb, template }: Binding): string {
  const shape = template.segments.map((segment) => (typeof segment === 'string' ? segment : [segment.literal]));
  return JSON.stringify([verb, shape, template.verb]);
}

function nameOf({ method }: Binding): string {
  return `${method.parent.typeName}/${method.name}`;
}
