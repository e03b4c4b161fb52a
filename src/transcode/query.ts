import type { DescMessage, Message } from '@bufbuild/protobuf';
import type { Binding } from './binding.ts';
import { type Faults, TranscodeError } from './error.ts';
import { quoted } from './scalar.ts';
import { leafOf, setFromTexts, spellTarget, type Target, targetOf, whyNoText } from './target.ts';

/**
 * Sets the fields of a request that its route binds neither to the path nor to the body. A parameter that names no field may be a proxy's or a
 * cache-breaker: it is passed over, unless `strict`. One that names a field it cannot set is refused: who sent it expects an effect.
 */
export function readQuery(
  message: Message,
  binding: Pick<Binding, 'body' | 'variables'> & { readonly method: { readonly input: DescMessage } },
  search: string,
  strict: boolean,
  faults: Faults,
): void {
  const known = new Map<string, { target: Target; texts: string[] }>();
  for (const [name, text] of parametersOf(search)) {
    const target = targetOf(binding.method.input, name.split('.'));
    if (target === undefined) {
      if (strict) faults.add(name.slice(0, 64), 'is not a parameter of this route');
      continue;
    }
    // By the field, not by the name: it may come as a_b and as aB.
    const key = spellTarget(target);
    const seen = known.get(key);
    if (seen === undefined) known.set(key, { target, texts: [text] });
    else seen.texts.push(text);
  }
  for (const [name, { target, texts }] of known) {
    const why = boundElsewhere(binding, target) ?? whyNoText(leafOf(target));
    if (why === undefined) setFromTexts(message, target, texts, faults);
    else faults.add(name, `cannot be a query parameter: it ${why}`);
  }
}

function boundElsewhere({ body, variables }: Pick<Binding, 'body' | 'variables'>, target: Target): string | undefined {
  if (
    variables.some(
      (each) => each.target.length === target.length && each.target.every((field, i) => field === target[i]),
    )
  )
    return 'comes from the path here';
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
    throw new TranscodeError(400, `the query has a percent-encoding that is not UTF-8: ${quoted(text)}`);
  }
}
