import './compose.css';
import { useTexts } from '../i18n/use-texts.ts';
import { shellTexts } from '../shell/texts.ts';
import { Page } from '../ui/page.tsx';
import { AudienceSection } from './audience-section.tsx';
import { CheckSection } from './check-section.tsx';
import { FileSection } from './file-section.tsx';
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
  const { open, form, plan } = compose;
  return (
    <Page title={shell('sections.compose')} lead={t('lead')}>
      <FileSection compose={compose} />
      {open === undefined || form === undefined || open.info.rowCount === 0 ? null : (
        <>
          <AudienceSection form={form} columns={open.info.columns} change={compose.change} />
          <MessageSection compose={compose} form={form} columns={open.info.columns} />
          {plan === undefined ? null : (
            <>
              <CheckSection compose={compose} form={form} />
              <SendSection key={compose.fileCount} compose={compose} form={form} open={open} />
            </>
          )}
        </>
      )}
    </Page>
  );
}
