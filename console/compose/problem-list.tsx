import { useTexts } from '../i18n/use-texts.ts';
import type { ProblemGroup } from './engine/audience.ts';
import type { RowFault } from './files/table.ts';
import { composeTexts } from './texts.ts';
import { useProblemWords } from './words.ts';

const shownGroups = 20;

/** Problems in words, with how many rows have each and the first lines. */
export function ProblemList({ groups }: { readonly groups: readonly ProblemGroup[] }) {
  const t = useTexts(composeTexts);
  const words = useProblemWords();
  return (
    <ul className="problems">
      {groups.slice(0, shownGroups).map((group) => (
        <li key={words(group.problem)}>
          {words(group.problem)} <span className="muted">({linesOf(group, t)})</span>
        </li>
      ))}
    </ul>
  );
}

type Translate = ReturnType<typeof useTexts<typeof composeTexts.en>>;

/** "line 3", "lines 3, 5 and more" */
export function linesOf({ lines, count }: Pick<ProblemGroup, 'lines' | 'count'>, t: Translate): string {
  const listed = lines.join(', ');
  return count > lines.length ? t('check.linesMore', { lines: listed }) : t('check.lines', { lines: listed, count });
}

/** Rows that cannot be read, each with its line and its beginning. */
export function FaultList({ faults }: { readonly faults: readonly RowFault[] }) {
  const t = useTexts(composeTexts);
  const words = useProblemWords();
  return (
    <ul className="problems">
      {faults.slice(0, shownGroups).map(({ line, text, problem }) => (
        <li key={line}>
          {t('check.lines', { lines: String(line), count: 1 })}: {words(problem)}
          {text === '' ? null : <code className="fault-text">{text}</code>}
        </li>
      ))}
    </ul>
  );
}
