import { useEffect, useMemo, useRef, useState } from 'react';
import { Link } from 'wouter';
import { BatchPriority } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import { browserTimeZone, usePreferences, useTimeZone } from '../i18n/preferences.ts';
import { useFormat } from '../i18n/use-format.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { Dialog } from '../ui/dialog.tsx';
import { Facts, Progress } from '../ui/display.tsx';
import { Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import type { Audience } from './engine/audience.ts';
import type { CheckReport, Preview, Submitted, UploadState } from './engine/engine.ts';
import type { Form } from './form.ts';
import { textOf } from './message-section.tsx';
import { EngineNotice } from './notice.tsx';
import { inZones, type Schedule, scheduleOf } from './schedule.ts';
import { TestDialog } from './test-dialog.tsx';
import { composeTexts } from './texts.ts';
import type { Compose } from './use-compose.ts';
import { type Confirmed, type OpenFile, type Sending, shortName, work } from './work.ts';

const priorities = { low: BatchPriority.LOW, normal: BatchPriority.NORMAL, high: BatchPriority.HIGH } as const;
type Translate = ReturnType<typeof useTexts<typeof composeTexts.en>>;

const priorityNames = ['low', 'normal', 'high'] as const;

/** A confirmation this long after its time still counts: the batch is then sent at once. */
const lateMs = 60_000;

interface SendProps {
  readonly compose: Compose;
  readonly form: Form;
  readonly open: OpenFile;
}

/** Name, priority and time of the batch, and its submission. */
export function SendSection({ compose, form, open }: SendProps) {
  const t = useTexts(composeTexts);
  const { language } = usePreferences();
  const { audience, report, sending, upload, result, uploadError, confirmed } = compose;
  const timing = useTiming(sending);
  const { schedule, zone } = timing;
  const [isReviewing, setReviewing] = useState(false);
  const count = audience === undefined || report === undefined ? 0 : countOf(audience, report, compose.withRefused);
  const isReady =
    count > 0 &&
    (schedule.kind === 'now' || schedule.kind === 'time') &&
    !open.info.isCut &&
    open.info.end === undefined;
  const sendAtMs = schedule.kind === 'time' ? schedule.ms : undefined;
  const locale = language === 'zh' ? 'zh-CN' : 'en-GB';
  const when =
    sendAtMs === undefined ? t('send.confirmNow') : inZones(sendAtMs, [zone, browserTimeZone, 'UTC'], locale);
  const submit = () => {
    setReviewing(false);
    if (sendAtMs !== undefined && sendAtMs < Date.now() - lateMs) return timing.evaluate();
    void work.submit({
      name: shortName(sending.name),
      priority: priorities[sending.priority],
      sendAtMs,
      after: undefined,
    });
  };
  if (result !== undefined) return <Done result={result} confirmed={confirmed} />;
  return (
    <section className="card stack" aria-labelledby="compose-send">
      <h2 id="compose-send">{t('send.title')}</h2>
      <fieldset className="plain stack" disabled={upload !== undefined}>
        <div className="choices">
          <Field label={t('send.name')} hint={t('send.nameHint')}>
            {(props) => (
              <input
                {...props}
                value={sending.name}
                onChange={({ target }) => work.changeSending({ name: target.value })}
              />
            )}
          </Field>
          <Field label={t('send.priority')}>
            {(props) => (
              <select
                {...props}
                value={sending.priority}
                onChange={({ target }) =>
                  work.changeSending({ priority: priorityNames.find((each) => each === target.value) ?? 'normal' })
                }
              >
                {priorityNames.map((each) => (
                  <option key={each} value={each}>
                    {t(`send.priorities.${each}`)}
                  </option>
                ))}
              </select>
            )}
          </Field>
        </div>
        <TimeChoice sending={sending} timing={timing} words={when} />
      </fieldset>
      {upload === undefined ? (
        <div className="row">
          <button type="button" className="button primary" disabled={!isReady} onClick={() => setReviewing(true)}>
            {t('send.review')}
          </button>
          <TestDialog compose={compose} />
          {report === undefined ? <span className="hint">{t('send.needCheck')}</span> : null}
        </div>
      ) : (
        <UploadProgress state={upload} />
      )}
      {uploadError === undefined ? null : (
        <>
          <EngineNotice error={uploadError} />
          {confirmed === undefined ? null : (
            <div className="row">
              <button type="button" className="button" onClick={() => void work.submit(confirmed)}>
                {t('send.retry')}
              </button>
              <span className="hint">{t('send.retryHint')}</span>
            </div>
          )}
        </>
      )}
      {audience === undefined ? null : (
        <Review
          isOpen={isReviewing}
          onClose={() => setReviewing(false)}
          onConfirm={submit}
          isScheduled={sendAtMs !== undefined}
          {...{ compose, form, open, audience, count, when }}
        />
      )}
    </section>
  );
}

/** Messages that are submitted after a check. */
function countOf({ messages }: Audience, report: CheckReport, withRefused: boolean): number {
  return messages - report.malformedCount - (withRefused ? 0 : report.refusedCount);
}

/** The schedule that the entered time means. It is unusable until it belongs to what is entered. */
function useTiming({ isLater, local, zone: chosen }: Sending) {
  const preferred = useTimeZone();
  const zone = chosen ?? preferred;
  const entered = isLater ? `${local} ${zone}` : '';
  const [evaluated, setEvaluated] = useState<{ readonly of: string; readonly schedule: Schedule }>();
  const [evaluation, setEvaluation] = useState(0);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the time is evaluated again on demand.
  useEffect(() => {
    let isCurrent = true;
    if (isLater)
      void scheduleOf(local, zone, Date.now()).then((schedule) => {
        if (isCurrent) setEvaluated({ of: entered, schedule });
      });
    return () => {
      isCurrent = false;
    };
  }, [isLater, local, zone, entered, evaluation]);
  const schedule: Schedule = !isLater
    ? { kind: 'now' }
    : evaluated?.of === entered
      ? evaluated.schedule
      : { kind: 'wrong', why: 'needTime' };
  return { zone, schedule, isEvaluated: evaluated?.of === entered, evaluate: () => setEvaluation(evaluation + 1) };
}

interface TimeChoiceProps {
  readonly sending: Sending;
  readonly timing: ReturnType<typeof useTiming>;
  readonly words: string;
}

function TimeChoice({ sending: { isLater, local }, timing, words }: TimeChoiceProps) {
  const t = useTexts(composeTexts);
  const zones = useMemo(() => Intl.supportedValuesOf('timeZone'), []);
  const { zone, schedule, isEvaluated } = timing;
  const error =
    !isLater || local === '' || !isEvaluated || schedule.kind === 'time' || schedule.kind === 'now'
      ? undefined
      : schedule.kind === 'gap'
        ? t('send.timeGap', { zone })
        : schedule.kind === 'twice'
          ? t('send.timeTwice', { zone, before: schedule.before, after: schedule.after, dates: schedule.dates })
          : t(`send.${schedule.why}`);
  return (
    <>
      <fieldset className="row">
        <legend>{t('send.when')}</legend>
        {[false, true].map((later) => (
          <label key={String(later)} className="check">
            <input
              type="radio"
              name="compose-when"
              checked={isLater === later}
              onChange={() => work.changeSending({ isLater: later })}
            />
            {later ? t('send.later') : t('send.now')}
          </label>
        ))}
      </fieldset>
      {isLater ? (
        <div className="choices">
          <Field label={t('send.date')} error={error}>
            {(props) => (
              <input
                {...props}
                type="datetime-local"
                value={local}
                onChange={({ target }) => work.changeSending({ local: target.value })}
              />
            )}
          </Field>
          <Field
            label={t('send.zone')}
            hint={schedule.kind === 'time' ? t('send.inZones', { times: words }) : undefined}
          >
            {(props) => (
              <select {...props} value={zone} onChange={({ target }) => work.changeSending({ zone: target.value })}>
                {[...new Set([zone, browserTimeZone, 'UTC', ...zones])].map((each) => (
                  <option key={each}>{each}</option>
                ))}
              </select>
            )}
          </Field>
        </div>
      ) : null}
    </>
  );
}

interface ReviewProps extends SendProps {
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onConfirm: () => void;
  readonly audience: Audience;
  readonly count: number;
  readonly when: string;
  readonly isScheduled: boolean;
}

/** The summary to confirm. */
function Review({ compose, form, open, audience, count, when, isScheduled, isOpen, onClose, onConfirm }: ReviewProps) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const [example, setExample] = useState<Preview>();
  const { engine, plan, previewRow } = compose;
  useEffect(() => {
    if (!isOpen || engine === undefined || plan === undefined) return;
    engine.preview(plan, previewRow).then(setExample, () => {});
  }, [isOpen, engine, plan, previewRow]);
  return (
    <Dialog
      title={t('send.confirmTitle', { count })}
      isOpen={isOpen}
      onClose={onClose}
      isWide
      actions={
        <button type="button" className="button primary" onClick={onConfirm}>
          {isScheduled ? t('send.schedule', { count }) : t('send.submit', { count })}
        </button>
      }
    >
      <Facts
        items={[
          [t('send.confirmMessages'), format.number(count)],
          [t('send.confirmReceivers'), format.number(Math.min(audience.receivers, count))],
          [t('send.confirmLeftOut'), format.number(audience.rows - count)],
          [t('send.confirmSender'), senderWords(form, t)],
          [t('send.confirmFile'), open.name],
          [t('send.confirmWhen'), when],
        ]}
      />
      {audience.ownTimes === 0 ? null : <Notice>{t('send.ownTimes', { count: audience.ownTimes })}</Notice>}
      {example?.payload === undefined ? null : (
        <div className="stack">
          <h3>{t('send.confirmExample')}</h3>
          <div className="bubble" dir="auto">
            {textOf(example.payload)}
          </div>
        </div>
      )}
    </Dialog>
  );
}

function senderWords({ source, sender, senderColumn }: Form, t: Translate): string {
  if (source === 'lines') return t('send.senderOfLines', { sender });
  return senderColumn === '' ? sender : t('send.senderOfColumn', { column: senderColumn });
}

/** How far the upload is, and what happens after a lost connection. */
function UploadProgress({ state }: { readonly state: UploadState }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const status = useRef<HTMLDivElement>(null);
  const isMoving = state.step === 'uploading' || state.step === 'storing';
  // The button that had the focus is gone.
  useEffect(() => status.current?.focus(), []);
  return (
    <div ref={status} className="stack" role="status" tabIndex={-1}>
      {isMoving && state.attempt > 1 ? (
        <Notice>{t('send.attempt', { attempt: format.number(state.attempt) })}</Notice>
      ) : null}
      <p>{uploadWords(state, t, format)}</p>
      <Progress label={t('send.title')} share={isMoving ? state.sentBytes / Math.max(state.totalBytes, 1) : 0} />
      <p className="hint">{t('send.goesOn')}</p>
      <div>
        <button type="button" className="button" onClick={() => work.stopUpload()}>
          {t('send.abort')}
        </button>
      </div>
    </div>
  );
}

function uploadWords(state: UploadState, t: Translate, format: ReturnType<typeof useFormat>): string {
  if (state.step === 'preparing' || state.step === 'prepared') return t('send.preparing');
  if (state.step === 'storing') return t('send.storing');
  const values = { sent: format.bytes(state.sentBytes), total: format.bytes(state.totalBytes) };
  if (state.step === 'offline') return t('send.offline');
  if (state.step === 'uploading') return t('send.uploading', values);
  return state.why === 'service' ? t('send.unavailable') : t('send.waiting', values);
}

interface DoneProps {
  readonly result: Submitted;
  readonly confirmed: Confirmed | undefined;
}

/** The batch is with the service. Sending it once more is a decision of its own. */
function Done({ result: { batchId, messageCount, duplicate }, confirmed }: DoneProps) {
  const t = useTexts(composeTexts);
  const heading = useRef<HTMLHeadingElement>(null);
  const [isAsking, setAsking] = useState(false);
  useEffect(() => heading.current?.focus(), []);
  return (
    <section className="card stack" aria-labelledby="compose-done">
      <h2 id="compose-done" ref={heading} tabIndex={-1}>
        {duplicate ? t('send.duplicateTitle') : t('send.doneTitle')}
      </h2>
      <Notice kind={duplicate ? 'warning' : 'success'}>
        {duplicate ? t('send.duplicate') : t('send.done', { count: messageCount })}
      </Notice>
      <div className="row">
        <Link href={pathOf('batches', batchId)} className="button primary">
          {t('send.toBatch')}
        </Link>
        <button type="button" className="button" onClick={() => work.reset()}>
          {t('send.another')}
        </button>
        {duplicate && confirmed !== undefined ? (
          <button type="button" className="button danger" onClick={() => setAsking(true)}>
            {t('send.again')}
          </button>
        ) : null}
      </div>
      {confirmed === undefined ? null : (
        <Dialog
          title={t('send.againTitle', { count: messageCount })}
          isOpen={isAsking}
          onClose={() => setAsking(false)}
          actions={
            <button
              type="button"
              className="button danger"
              onClick={() => void work.submit({ ...confirmed, after: batchId })}
            >
              {t('send.again')}
            </button>
          }
        >
          <p>{t('send.againHint')}</p>
        </Dialog>
      )}
    </section>
  );
}
