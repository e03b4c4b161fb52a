import './compose.css';
import { useTexts } from '../i18n/use-texts.ts';
import { shellTexts } from '../shell/texts.ts';
import { Page } from '../ui/page.tsx';
import { AudienceSection } from './audience-section.tsx';
import { CheckSection } from './check-section.tsx';
import { FileSection } from './file-section.tsx';
import { Interrupted } from './interrupted.tsx';
import { MessageSection } from './message-section.tsx';
import { SendSection } from './send-section.tsx';
import { composeTexts } from './texts.ts';
import { useCompose } from './use-compose.ts';

/**
 * Sends a message to everybody in a spreadsheet. The steps are sections of one page, so that every
 * earlier choice stays in sight; each appears when the one before it is complete.
 */
export default function ComposePage() {
  const t = useTexts(composeTexts);
  const shell = useTexts(shellTexts);
  const compose = useCompose();
  const { open, form, plan, reading, upload, result, note } = compose;
  // What is being submitted, or was, stays in sight and does not change.
  const isFixed = reading !== undefined || upload !== undefined || result !== undefined;
  return (
    <Page title={shell('sections.compose')} lead={t('lead')}>
      {note === undefined || upload !== undefined ? null : <Interrupted note={note} />}
      <fieldset className="plain sections-of-work" disabled={isFixed}>
        <FileSection compose={compose} />
        {open === undefined || form === undefined || open.info.rowCount === 0 ? null : (
          <>
            <AudienceSection form={form} columns={open.info.columns} />
            <MessageSection compose={compose} form={form} columns={open.info.columns} />
            {plan === undefined ? null : <CheckSection compose={compose} form={form} />}
          </>
        )}
      </fieldset>
      {open === undefined || form === undefined || plan === undefined || open.info.rowCount === 0 ? null : (
        <SendSection compose={compose} form={form} open={open} />
      )}
    </Page>
  );
}
