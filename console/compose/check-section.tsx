import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Facts, Progress } from '../ui/display.tsx';
import { Notice } from '../ui/feedback.tsx';
import { ColumnField } from './audience-section.tsx';
import type { Audience } from './engine/audience.ts';
import type { CheckReport } from './engine/engine.ts';
import type { Form } from './form.ts';
import { EngineNotice } from './notice.tsx';
import { linesOf, ProblemList } from './problem-list.tsx';
import { composeTexts } from './texts.ts';
import type { Compose } from './use-compose.ts';
import { work } from './work.ts';

/** Who would get the batch, and what the service says to it. */
export function CheckSection({ compose, form }: { readonly compose: Compose; readonly form: Form }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const { audience, countingShare, open } = compose;
  return (
    <section className="card stack" aria-labelledby="compose-check">
      <h2 id="compose-check">{t('check.title')}</h2>
      {countingShare === undefined ? null : (
        <p role="status">{t('check.counting', { share: format.percent(countingShare) })}</p>
      )}
      <div className="choices">
        <ColumnField
          label={t('check.unique')}
          columns={open?.info.columns ?? []}
          value={form.uniqueColumn}
          none={t('check.uniqueNone')}
          onChange={(uniqueColumn) => work.change({ uniqueColumn })}
        />
      </div>
      {audience === undefined ? null : (
        <>
          <AudienceFacts audience={audience} />
          <AudienceNotices audience={audience} form={form} />
          <ServiceCheck compose={compose} audience={audience} />
        </>
      )}
    </section>
  );
}

function AudienceFacts({ audience: { rows, messages, receivers, bytes } }: { readonly audience: Audience }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  return (
    <Facts
      items={[
        [t('check.rows'), format.number(rows)],
        [t('check.leftOut'), format.number(rows - messages)],
        [t('check.messages'), <strong key="messages">{format.number(messages)}</strong>],
        [t('check.receivers'), <strong key="receivers">{format.number(receivers)}</strong>],
        [
          t('check.size'),
          bytes === undefined
            ? '–'
            : t('check.sizes', { least: format.bytes(bytes.least), most: format.bytes(bytes.most) }),
        ],
      ]}
    />
  );
}

function AudienceNotices({
  audience: { repeated, duplicates, invalid, emptyCells, messages },
  form,
}: {
  readonly audience: Audience;
  readonly form: Form;
}) {
  const t = useTexts(composeTexts);
  const { example } = repeated;
  return (
    <>
      {example === undefined ? null : (
        <Notice kind="warning">
          <p>
            {t('check.repeated', {
              count: repeated.receivers,
              example: example.channelId,
              lines: example.lines.join(', '),
            })}
          </p>
          <button
            type="button"
            className="button small"
            onClick={() => work.change({ uniqueColumn: form.receiverColumn })}
          >
            {t('check.dropRepeated')}
          </button>
        </Notice>
      )}
      {duplicates === 0 ? null : <Notice>{t('check.duplicates', { count: duplicates })}</Notice>}
      {invalid.rows === 0 ? null : (
        <Notice kind="warning">
          <p>{t('check.invalid', { count: invalid.rows })}</p>
          <ProblemList groups={invalid.groups} />
        </Notice>
      )}
      {emptyCells.length === 0 ? null : (
        <Notice kind="warning">
          <p>{t('check.empty')}</p>
          <ul className="problems">
            {emptyCells.map((group) => (
              <li key={String(group.problem.values?.names)}>
                {t('check.emptyCell', { names: String(group.problem.values?.names), count: group.count })}{' '}
                <span className="muted">({linesOf(group, t)})</span>
              </li>
            ))}
          </ul>
        </Notice>
      )}
      {messages > 0 ? null : <Notice kind="warning">{t('check.nothing')}</Notice>}
    </>
  );
}

/** Asks the service about every message; needed before the batch can be sent. */
function ServiceCheck({ compose, audience }: { readonly compose: Compose; readonly audience: Audience }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const { report, checkedCount: done, checkError: error } = compose;
  if (audience.messages === 0) return null;
  return (
    <div className="stack">
      <div className="row">
        <button
          type="button"
          className={report === undefined ? 'button primary' : 'button'}
          disabled={done !== undefined}
          onClick={() => void work.check()}
        >
          {t('check.ask')}
        </button>
        {done === undefined ? null : (
          <button type="button" className="button quiet" onClick={() => work.stopCheck()}>
            {t('check.stop')}
          </button>
        )}
        <span className="hint">{t('check.askHint')}</span>
      </div>
      {done === undefined ? null : (
        <div role="status" className="stack">
          <p>{t('check.asking', { done: format.number(done), total: format.number(audience.messages) })}</p>
          <Progress label={t('check.ask')} share={done / audience.messages} />
        </div>
      )}
      {error === undefined ? null : <EngineNotice error={error} />}
      {report === undefined ? null : <Report report={report} compose={compose} />}
    </div>
  );
}

function Report({ report, compose }: { readonly report: CheckReport; readonly compose: Compose }) {
  const t = useTexts(composeTexts);
  const { withRefused } = compose;
  const fine = report.checked - report.malformedCount - report.refusedCount;
  return (
    <div className="stack" data-testid="report">
      {report.malformedCount === 0 ? null : (
        <Notice kind="warning">
          <p>{t('check.malformed', { count: report.malformedCount })}</p>
          <ProblemList groups={report.malformed} />
        </Notice>
      )}
      {report.refusedCount === 0 ? null : (
        <Notice kind="warning">
          <p>{t('check.refused', { count: report.refusedCount })}</p>
          <ProblemList groups={report.refused} />
          <label className="check">
            <input
              type="checkbox"
              checked={!withRefused}
              onChange={({ target }) => work.setWithRefused(!target.checked)}
            />
            {t('check.refusedChoice')}
          </label>
          <p className="hint">{t('check.refusedHint')}</p>
        </Notice>
      )}
      {fine === 0 ? null : <Notice kind="success">{t('check.fine', { count: fine })}</Notice>}
    </div>
  );
}
