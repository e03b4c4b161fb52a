import { type ChangeEvent, type ClipboardEvent, type DragEvent, useEffect, useId, useRef, useState } from 'react';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Badge, Progress, TableScroll } from '../ui/display.tsx';
import { Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { Tone } from '../ui/tone.ts';
import { ComposeError } from './engine/client.ts';
import type { FileInfo, ReadChoice, ShownRow } from './engine/engine.ts';
import { encodings } from './files/encoding.ts';
import { FaultList } from './problem-list.tsx';
import { composeTexts } from './texts.ts';
import type { Compose } from './use-compose.ts';
import { useProblemWords } from './words.ts';
import { work } from './work.ts';

/** The file: choosing it, how it is read, and its rows. */
export function FileSection({ compose }: { readonly compose: Compose }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const words = useProblemWords();
  const { open, reading, error } = compose;
  return (
    <section className="card stack" aria-labelledby="compose-file">
      <h2 id="compose-file">{t('file.title')}</h2>
      {open === undefined && reading === undefined ? <Chooser /> : null}
      {reading === undefined ? null : (
        <div role="status" className="stack">
          <p>{t('file.reading', { name: reading.name, share: format.percent(reading.share) })}</p>
          <Progress label={t('file.title')} share={reading.share} />
        </div>
      )}
      {error === undefined ? null : (
        <div className="notice error" role="alert">
          <p className="notice-title">{t('file.unnamed')}</p>
          <p>{error instanceof ComposeError ? words(error.detail.problem) : String(error)}</p>
        </div>
      )}
      {open === undefined ? null : (
        <>
          <div className="row">
            <strong className="file-name">{open.name}</strong>
            <span className="muted">{t('file.rows', { count: open.info.rowCount })}</span>
            <button type="button" className="button small" onClick={() => work.reset()}>
              {t('file.replace')}
            </button>
          </div>
          <ReadingChoices info={open.info} onChange={(choice) => void work.read(open.file, open.name, choice)} />
          <FileNotices info={open.info} />
          <Rows compose={compose} columns={open.info.columns} total={open.info.rowCount} />
        </>
      )}
    </section>
  );
}

/** A longer text is read at once: a text field of some megabytes freezes the page. */
const directPasteChars = 200_000;

function Chooser() {
  const t = useTexts(composeTexts);
  const input = useRef<HTMLInputElement>(null);
  const [isOver, setOver] = useState(false);
  const [isPasting, setPasting] = useState(false);
  const [text, setText] = useState('');
  const [isEmpty, setEmpty] = useState(false);
  const take = (file: File | undefined | null) => {
    if (file) void work.read(file, file.name, {});
  };
  const onDrop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    take(event.dataTransfer.files[0]);
  };
  const takeText = (pasted: string) => {
    setEmpty(pasted.trim() === '');
    if (pasted.trim() !== '') void work.read(new Blob([pasted]), t('file.pasted'), {});
  };
  const onPaste = (event: ClipboardEvent) => {
    const pasted = event.clipboardData.getData('text/plain');
    if (pasted.length < directPasteChars || text !== '') return;
    event.preventDefault();
    takeText(pasted);
  };
  return (
    <>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: the button within does the same by keyboard. */}
      <div
        className={isOver ? 'drop-zone over' : 'drop-zone'}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={onDrop}
      >
        <p className="empty-title">{t('file.drop')}</p>
        <div className="row">
          <button type="button" className="button primary" onClick={() => input.current?.click()}>
            {t('file.choose')}
          </button>
          <button type="button" className="button" aria-expanded={isPasting} onClick={() => setPasting(!isPasting)}>
            {t('file.paste')}
          </button>
        </div>
        <p className="hint">{t('file.kinds')}</p>
        <input
          ref={input}
          type="file"
          hidden
          accept=".csv,.tsv,.txt,.ndjson,.jsonl,.xlsx,text/csv,text/tab-separated-values"
          onChange={(event) => {
            take(event.target.files?.[0]);
            event.target.value = '';
          }}
        />
      </div>
      {isPasting ? (
        <div className="stack">
          <Field label={t('file.pasteLabel')} error={isEmpty ? t('file.pasteEmpty') : undefined}>
            {(props) => (
              <textarea
                {...props}
                className="mono"
                rows={6}
                spellCheck={false}
                value={text}
                onPaste={onPaste}
                onChange={(event) => setText(event.target.value)}
              />
            )}
          </Field>
          <div>
            <button type="button" className="button" onClick={() => takeText(text)}>
              {t('file.pasteUse')}
            </button>
          </div>
        </div>
      ) : null}
    </>
  );
}

const delimiterNames = { ',': 'comma', ';': 'semicolon', '\t': 'tab', '|': 'pipe' } as const;

/** How the file was read; a change reads it again. */
function ReadingChoices({
  info,
  onChange,
}: {
  readonly info: FileInfo;
  readonly onChange: (choice: ReadChoice) => void;
}) {
  const t = useTexts(composeTexts);
  const { encoding, delimiter, hasHeader, sheet, withHidden } = info;
  const chosen = { encoding: encoding?.encoding, delimiter, hasHeader, sheet, withHidden };
  const encodingName = (name: string) => {
    const known = encodings.find((each) => each === name);
    return known === undefined ? name : t(`encodings.${known}`);
  };
  return (
    <div className="choices">
      {encoding === undefined ? null : (
        <Field label={t('file.encoding')} hint={t('file.encodingHint')}>
          {(props) => (
            <select
              {...props}
              value={encoding.encoding}
              onChange={(event) => onChange({ ...chosen, encoding: event.target.value })}
            >
              {[...new Set([...encodings, encoding.encoding])].map((name) => (
                <option key={name} value={name}>
                  {name === encoding.encoding && encoding.hasMark
                    ? t('file.withMark', { encoding: encodingName(name) })
                    : encodingName(name)}
                </option>
              ))}
            </select>
          )}
        </Field>
      )}
      {info.kind === 'table' && delimiter !== undefined ? (
        <Field label={t('file.delimiter')}>
          {(props) => (
            <select
              {...props}
              value={delimiter}
              onChange={(event) => onChange({ encoding: chosen.encoding, delimiter: event.target.value })}
            >
              {Object.entries(delimiterNames).map(([character, name]) => (
                <option key={name} value={character}>
                  {t(`file.delimiters.${name}`)}
                </option>
              ))}
              {delimiter in delimiterNames ? null : <option>{delimiter}</option>}
            </select>
          )}
        </Field>
      ) : null}
      {sheet === undefined || info.sheets.length < 2 ? null : (
        <Field label={t('file.sheet')}>
          {(props) => (
            <select {...props} value={sheet} onChange={(event) => onChange({ sheet: event.target.value })}>
              {info.sheets.map((name) => (
                <option key={name}>{name}</option>
              ))}
            </select>
          )}
        </Field>
      )}
      {info.hiddenRows === 0 ? null : (
        <label className="check">
          <input
            type="checkbox"
            checked={info.withHidden}
            onChange={(event) => onChange({ ...chosen, withHidden: event.target.checked })}
          />
          {t('file.withHidden', { count: info.hiddenRows })}
        </label>
      )}
      {info.kind === 'jsonLines' ? (
        <p className="muted">{info.holdsMessages ? t('file.messageLines') : t('file.jsonLines')}</p>
      ) : (
        <label className="check">
          <input
            type="checkbox"
            checked={hasHeader}
            onChange={(event) => onChange({ ...chosen, hasHeader: event.target.checked })}
          />
          {t('file.header')}
        </label>
      )}
    </div>
  );
}

function FileNotices({ info }: { readonly info: FileInfo }) {
  const t = useTexts(composeTexts);
  const words = useProblemWords();
  const { end } = info;
  return (
    <>
      {end === undefined ? null : (
        <div className="notice error" role="alert">
          <p>{t('file.ended', { line: String(end.line), problem: words(end.problem) })}</p>
        </div>
      )}
      {info.isCut ? (
        <div className="notice error" role="alert">
          <p>{t('file.cut')}</p>
        </div>
      ) : null}
      {info.hiddenRows === 0 || info.withHidden ? null : (
        <Notice>{t('file.hidden', { count: info.hiddenRows })}</Notice>
      )}
      {info.mergedRanges === 0 ? null : <Notice>{t('file.merged')}</Notice>}
      {info.blankRows === 0 ? null : <p className="muted">{t('file.blank', { count: info.blankRows })}</p>}
      {info.faultCount === 0 ? null : (
        <Notice kind="warning">
          <p>{t('file.unreadable', { count: info.faultCount })}</p>
          <FaultList faults={info.faults} />
        </Notice>
      )}
    </>
  );
}

const pageRows = 10;
const stateNames = ['sent', 'duplicate', 'invalid', 'refused'] as const;
const stateTones: readonly Tone[] = ['neutral', 'info', 'warning', 'danger'];

/** A window of the rows; the rest stays in the worker. */
function Rows({
  compose: { engine, open, audience, report },
  columns,
  total,
}: {
  readonly compose: Compose;
  readonly columns: readonly string[];
  readonly total: number;
}) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const [from, setFrom] = useState(0);
  const [rows, setRows] = useState<readonly ShownRow[]>([]);
  const goTo = useId();
  // biome-ignore lint/correctness/useExhaustiveDependencies: the states of rows change with the audience and the check.
  useEffect(() => {
    let isCurrent = true;
    engine.rows(from, pageRows).then(
      (shown) => {
        if (isCurrent) setRows(shown);
      },
      () => {},
    );
    return () => {
      isCurrent = false;
    };
  }, [engine, open, from, audience, report]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another file begins at its start.
  useEffect(() => setFrom(0), [open]);
  const last = Math.max(0, Math.floor((total - 1) / pageRows) * pageRows);
  const jump = (event: ChangeEvent<HTMLInputElement>) => {
    const row = Math.min(Math.max(Number(event.target.value) - 2, 0), Math.max(total - 1, 0));
    if (event.target.value !== '') setFrom(Math.floor(row / pageRows) * pageRows);
  };
  return (
    <div className="stack">
      <TableScroll label={t('file.tableLabel')}>
        <table className="compact">
          <thead>
            <tr>
              <th className="number">{t('file.line')}</th>
              {columns.map((name) => (
                <th key={name}>{name}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(({ row, line, cells, state }) => (
              <tr key={row}>
                <td className="number muted">
                  {line}
                  {state === 0 ? null : (
                    <>
                      {' '}
                      <Badge tone={stateTones[state] ?? 'neutral'}>
                        {t(`file.stateNames.${stateNames[state] ?? 'sent'}`)}
                      </Badge>
                    </>
                  )}
                </td>
                {columns.map((name, index) => (
                  <td key={name} className="cell" dir="auto">
                    {cells[index]}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </TableScroll>
      {total <= pageRows ? null : (
        <div className="row">
          <button type="button" className="button small" disabled={from === 0} onClick={() => setFrom(from - pageRows)}>
            {t('file.previous')}
          </button>
          <button
            type="button"
            className="button small"
            disabled={from >= last}
            onClick={() => setFrom(Math.min(from + pageRows, last))}
          >
            {t('file.next')}
          </button>
          <span className="muted">
            {t('file.shown', {
              from: format.number(from + 1),
              to: format.number(Math.min(from + pageRows, total)),
              total: format.number(total),
            })}
          </span>
          <label className="row" htmlFor={goTo}>
            {t('file.goTo')}
            <input id={goTo} className="short" type="number" min={1} onChange={jump} />
          </label>
        </div>
      )}
    </div>
  );
}
