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
import { type Compose, connection, type OpenFile } from './use-compose.ts';

const priorities = { low: BatchPriority.LOW, normal: BatchPriority.NORMAL, high: BatchPriority.HIGH } as const;
const priorityNames = ['low', 'normal', 'high'] as const;
/** Limit of the service for a batch's name, in bytes. */
const nameBytes = 128;

interface SendProps {
  readonly compose: Compose;
  readonly form: Form;
  readonly open: OpenFile;
}

/** Name, priority and time of the batch, and its submission. */
export function SendSection({ compose, form, open }: SendProps) {
  const t = useTexts(composeTexts);
  const { language } = usePreferences();
  const { audience, report } = compose;
  const [name, setName] = useState(() => shortName(open.name));
  const [priority, setPriority] = useState<(typeof priorityNames)[number]>('normal');
  const timing = useTiming();
  const { schedule } = timing;
  const [isReviewing, setReviewing] = useState(false);
  const upload = useUpload(compose);
  const count = audience === undefined || report === undefined ? 0 : countOf(audience, report, compose.withRefused);
  const isReady =
    count > 0 &&
    (schedule.kind === 'now' || schedule.kind === 'time') &&
    !open.info.isCut &&
    open.info.end === undefined;
  const sendAtMs = schedule.kind === 'time' ? schedule.ms : undefined;
  const locale = language === 'zh' ? 'zh-CN' : 'en-GB';
  const when =
    sendAtMs === undefined ? t('send.confirmNow') : inZones(sendAtMs, [timing.zone, browserTimeZone, 'UTC'], locale);
  const submit = (isNew: boolean) => {
    setReviewing(false);
    void upload.start({ name: shortName(name), priority: priorities[priority], sendAtMs, isNew });
  };
  if (upload.result !== undefined)
    return <Done result={upload.result} onAgain={() => submit(true)} onReset={compose.reset} />;
  return (
    <section className="card stack" aria-labelledby="compose-send">
      <h2 id="compose-send">{t('send.title')}</h2>
      <div className="choices">
        <Field label={t('send.name')} hint={t('send.nameHint')}>
          {(props) => <input {...props} value={name} onChange={({ target }) => setName(target.value)} />}
        </Field>
        <Field label={t('send.priority')}>
          {(props) => (
            <select
              {...props}
              value={priority}
              onChange={({ target }) => setPriority(priorityNames.find((each) => each === target.value) ?? 'normal')}
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
      <TimeChoice timing={timing} words={when} />
      {upload.state === undefined ? (
        <div className="row">
          <button type="button" className="button primary" disabled={!isReady} onClick={() => setReviewing(true)}>
            {t('send.review')}
          </button>
          <TestDialog compose={compose} />
          {report === undefined ? <span className="hint">{t('send.needCheck')}</span> : null}
        </div>
      ) : (
        <UploadProgress state={upload.state} onAbort={upload.abort} />
      )}
      {upload.wasAborted ? <Notice>{t('send.aborted')}</Notice> : null}
      {upload.error === undefined ? null : <EngineNotice error={upload.error} />}
      {audience === undefined ? null : (
        <Review
          isOpen={isReviewing}
          onClose={() => setReviewing(false)}
          onConfirm={() => submit(false)}
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

/** A name within the service's limit. */
function shortName(text: string): string {
  const name = text.replace(/\.(csv|tsv|txt|ndjson|jsonl|xlsx)$/i, '').trim();
  const bytes = new TextEncoder().encode(name).subarray(0, nameBytes);
  // A character cut in the middle is left out.
  return new TextDecoder().decode(bytes).replace(/\uFFFD$/, '');
}

function useTiming() {
  const preferred = useTimeZone();
  const [isLater, setLater] = useState(false);
  const [local, setLocal] = useState('');
  const [zone, setZone] = useState(preferred);
  const [schedule, setSchedule] = useState<Schedule>({ kind: 'now' });
  useEffect(() => {
    let isCurrent = true;
    if (!isLater) {
      setSchedule({ kind: 'now' });
      return;
    }
    void scheduleOf(local, zone, Date.now()).then((next) => {
      if (isCurrent) setSchedule(next);
    });
    return () => {
      isCurrent = false;
    };
  }, [isLater, local, zone]);
  return { isLater, setLater, local, setLocal, zone, setZone, schedule };
}

function TimeChoice({ timing, words }: { readonly timing: ReturnType<typeof useTiming>; readonly words: string }) {
  const t = useTexts(composeTexts);
  const zones = useMemo(() => Intl.supportedValuesOf('timeZone'), []);
  const { isLater, setLater, local, setLocal, zone, setZone, schedule } = timing;
  const error =
    !isLater || local === '' || schedule.kind === 'time' || schedule.kind === 'now'
      ? undefined
      : schedule.kind === 'gap'
        ? t('send.timeGap', { zone })
        : schedule.kind === 'twice'
          ? t('send.timeTwice', { zone, before: schedule.before, after: schedule.after })
          : t(`send.${schedule.why}`);
  return (
    <>
      <fieldset className="row">
        <legend>{t('send.when')}</legend>
        {[false, true].map((later) => (
          <label key={String(later)} className="check">
            <input type="radio" name="compose-when" checked={isLater === later} onChange={() => setLater(later)} />
            {later ? t('send.later') : t('send.now')}
          </label>
        ))}
      </fieldset>
      {isLater ? (
        <div className="choices">
          <Field label={t('send.date')} error={error}>
            {(props) => (
              <input {...props} type="datetime-local" value={local} onChange={({ target }) => setLocal(target.value)} />
            )}
          </Field>
          <Field
            label={t('send.zone')}
            hint={schedule.kind === 'time' ? t('send.inZones', { times: words }) : undefined}
          >
            {(props) => (
              <select {...props} value={zone} onChange={({ target }) => setZone(target.value)}>
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
    void engine.preview(plan, previewRow).then(setExample);
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
          [t('send.confirmSender'), form.senderColumn === '' ? form.sender : form.senderColumn],
          [t('send.confirmFile'), open.name],
          [t('send.confirmWhen'), when],
        ]}
      />
      {audience.ownTimes === 0 ? null : <Notice>{t('send.ownTimes', { count: audience.ownTimes })}</Notice>}
      {example?.payload === undefined ? null : (
        <div className="stack">
          <h3>{t('send.confirmExample')}</h3>
          <div className="bubble">{textOf(example.payload)}</div>
        </div>
      )}
    </Dialog>
  );
}

type Choice = Parameters<NonNullable<Compose['engine']>['submit']>[2];

function useUpload({ engine, plan, withRefused, setSubmitted }: Compose) {
  const [state, setState] = useState<UploadState>();
  const [result, setResult] = useState<Submitted>();
  const [error, setError] = useState<unknown>();
  const [wasAborted, setAborted] = useState(false);
  const running = useRef<AbortController>(undefined);
  async function start(choice: Omit<Choice, 'withRefused'>): Promise<void> {
    if (engine === undefined || plan === undefined) return;
    const controller = new AbortController();
    running.current = controller;
    setError(undefined);
    setAborted(false);
    setResult(undefined);
    setState({ step: 'preparing' });
    const options = { signal: controller.signal, onProgress: setState };
    try {
      setResult(await engine.submit(connection(), plan, { ...choice, withRefused }, options));
      setSubmitted(true);
    } catch (thrown) {
      if (controller.signal.aborted) setAborted(true);
      else setError(thrown);
    } finally {
      setState(undefined);
    }
  }
  return { state, result, error, wasAborted, start, abort: () => running.current?.abort() };
}

function UploadProgress({ state, onAbort }: { readonly state: UploadState; readonly onAbort: () => void }) {
  const t = useTexts(composeTexts);
  const format = useFormat();
  const share = state.step === 'uploading' ? state.sentBytes / state.totalBytes : state.step === 'storing' ? 1 : 0;
  const words =
    state.step === 'uploading'
      ? t('send.uploading', { sent: format.bytes(state.sentBytes), total: format.bytes(state.totalBytes) })
      : t(`send.${state.step}`);
  return (
    <div className="stack" role="status">
      <p>{words}</p>
      <Progress label={t('send.title')} share={share} />
      {state.step === 'storing' ? null : (
        <div>
          <button type="button" className="button" onClick={onAbort}>
            {t('send.abort')}
          </button>
        </div>
      )}
    </div>
  );
}

interface DoneProps {
  readonly result: Submitted;
  readonly onAgain: () => void;
  readonly onReset: () => void;
}

/**
 * The batch is with the service. A repeated submission is offered only in words that say what it
 * does.
 */
function Done({ result: { batchId, messageCount, duplicate }, onAgain, onReset }: DoneProps) {
  const t = useTexts(composeTexts);
  const heading = useRef<HTMLHeadingElement>(null);
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
        <button type="button" className="button" onClick={onReset}>
          {t('send.another')}
        </button>
        {duplicate ? (
          <>
            <button type="button" className="button danger" onClick={onAgain}>
              {t('send.again')}
            </button>
            <span className="hint">{t('send.againHint')}</span>
          </>
        ) : null}
      </div>
    </section>
  );
}
