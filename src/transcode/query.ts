import type { DescField, DescMessage, Message } from '@bufbuild/protobuf';
import type { Binding } from './binding.ts';
import { type Faults, TranscodeError } from './error.ts';
import { quoted } from './scalar.ts';
import { didYouMean } from './suggest.ts';
import { leafOf, setFromTexts, spellTarget, type Target, targetOf, whyNoText } from './target.ts';
import { isWellKnown } from './well-known.ts';

/** The parts of a binding that decide what a query can set. */
type QueryBinding = Pick<Binding, 'body' | 'variables' | 'queryFields'> & {
  readonly method: { readonly input: DescMessage };
};

/**
 * Sets the fields that the query gives and that the route binds neither to the path nor to the
 * body.
 *
 * A parameter that names a field it cannot set is refused, because its caller expects an effect.
 * One that names no field is refused with the nearest name when `strict`, and ignored otherwise.
 */
export function readQuery(
  message: Message,
  binding: QueryBinding,
  search: string,
  strict: boolean,
  faults: Faults,
): void {
  const known = new Map<string, { target: Target; texts: string[] }>();
  for (const [name, text] of parametersOf(search)) {
    const target = targetOf(binding.method.input, name.split('.'));
    if (target === undefined) {
      const why = whyNoField(binding, name);
      if (name === '') faults.add('query', 'has a parameter without a name');
      else if (why !== undefined) faults.add(shortened(name), `cannot be a query parameter: ${why}`);
      else if (strict)
        faults.add(shortened(name), `is not a parameter of this route${suggestion(binding, name, faults)}`);
      continue;
    }
    // By field, not by name: it may be given as a_b and as aB.
    const key = spellTarget(target);
    const seen = known.get(key);
    if (seen === undefined) known.set(key, { target, texts: [text] });
    else seen.texts.push(text);
  }
  for (const [name, { target, texts }] of known) {
    const why = boundElsewhere(binding, target) ?? whyNoText(leafOf(target));
    if (why === undefined) setFromTexts(message, target, texts, faults, 'query');
    else faults.add(name, `cannot be a query parameter: it ${why}`);
  }
}

/** Longer parameter names are truncated in errors. */
const nameChars = 64;

function shortened(name: string): string {
  return name.length > nameChars ? `${name.slice(0, nameChars)}…` : name;
}

/**
 * Explains a name that continues after a field without subfields, such as `ts.seconds` of a
 * Timestamp. Undefined for other names.
 */
function whyNoField({ method }: QueryBinding, name: string): string | undefined {
  const steps = name.split('.');
  for (let count = steps.length - 1; count > 0; count--) {
    const target = targetOf(method.input, steps.slice(0, count));
    if (target === undefined) continue;
    const { message } = leafOf(target);
    const isPlainMessage = message !== undefined && !isWellKnown(message);
    return isPlainMessage ? undefined : `${spellTarget(target)} has no subfields`;
  }
  return undefined;
}

function suggestion(binding: QueryBinding, name: string, faults: Faults): string {
  if (faults.isFull || name.length > nameChars) return '';
  return didYouMean(name, queryTargets(binding).map(spellTarget));
}

/**
 * Returns the fields that a query may set, fields of messages by their path. A message nested in
 * itself is not followed.
 */
export function queryTargets(binding: QueryBinding): Target[] {
  const targets: Target[] = [];
  const gather = ({ fields }: DescMessage, path: readonly DescField[], within: readonly DescMessage[]) => {
    for (const field of fields) {
      const target: Target = [...path, field] as unknown as Target;
      if (boundElsewhere(binding, target) !== undefined) continue;
      const inner = field.fieldKind === 'message' && !isWellKnown(field.message) ? field.message : undefined;
      if (inner !== undefined && !within.includes(inner)) gather(inner, target, [...within, inner]);
      else if (whyNoText(field) === undefined) targets.push(target);
    }
  };
  gather(binding.method.input, [], [binding.method.input]);
  return targets;
}

function boundElsewhere({ body, variables, queryFields }: QueryBinding, target: Target): string | undefined {
  if (
    variables.some(
      (each) => each.target.length === target.length && each.target.every((field, i) => field === target[i]),
    )
  )
    return 'comes from the path here';
  if (queryFields.includes(target[0])) return undefined;
  if (body.kind === 'whole' || (body.kind === 'field' && body.field === target[0])) return 'comes from the body here';
  return undefined;
}

function* parametersOf(search: string): Generator<[string, string]> {
  for (const part of search.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    yield equals === -1 ? [decode(part), ''] : [decode(part.slice(0, equals)), decode(part.slice(equals + 1))];
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    const description = `has a percent-encoding that is not UTF-8: ${quoted(text)}`;
    throw new TranscodeError(400, `query: ${description}`, [{ field: 'query', description }]);
  }
}
