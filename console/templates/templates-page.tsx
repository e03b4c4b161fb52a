import { useInfiniteQuery } from '@connectrpc/connect-query';
import { useState } from 'react';
import { Link, useLocation } from 'wouter';
import { TemplateFormat, TemplateService } from '../../gen/client/sendbatch/v1/template_service_pb.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { pathOf } from '../ui/address.ts';
import { TableScroll, Time } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { MoreButton, nextPageOf } from '../ui/more-button.tsx';
import { Page } from '../ui/page.tsx';
import { TemplateDialog } from './template-dialog.tsx';
import { templateTexts } from './texts.ts';

const pageSize = 50;

/** The stored templates, each with its latest version. */
export default function TemplatesPage() {
  const t = useTexts(templateTexts);
  const [, navigate] = useLocation();
  const [isCreating, setCreating] = useState(false);
  const list = useInfiniteQuery(
    TemplateService.method.listTemplates,
    { pageSize, pageToken: '' },
    { pageParamKey: 'pageToken', getNextPageParam: nextPageOf },
  );
  const templates = list.data?.pages.flatMap((page) => page.templates) ?? [];
  return (
    <Page
      title={t('title')}
      lead={t('lead')}
      actions={
        <button type="button" className="button primary" onClick={() => setCreating(true)}>
          {t('create')}
        </button>
      }
    >
      {list.error === null ? null : <ErrorNotice error={list.error} onRetry={() => void list.refetch()} />}
      {list.isPending ? <Loading /> : null}
      {list.data !== undefined && templates.length === 0 ? (
        <Empty title={t('none')}>
          <p>{t('noneText')}</p>
        </Empty>
      ) : null}
      {templates.length === 0 ? null : (
        <TableScroll label={t('table')}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('columns.name')}</th>
                <th scope="col" className="number">
                  {t('columns.version')}
                </th>
                <th scope="col">{t('columns.format')}</th>
                <th scope="col">{t('columns.variables')}</th>
                <th scope="col">{t('columns.created')}</th>
              </tr>
            </thead>
            <tbody>
              {templates.map((template) => (
                <tr key={template.name}>
                  <th scope="row" className="breakable">
                    <Link href={pathOf('templates', template.name)}>{template.name}</Link>
                  </th>
                  <td className="number">{template.version}</td>
                  <td>{template.format === TemplateFormat.JSON ? t('formats.json') : t('formats.text')}</td>
                  <td className="breakable">
                    {template.variables.length === 0 ? (
                      <span className="muted">{t('noVariables')}</span>
                    ) : (
                      template.variables.join(', ')
                    )}
                  </td>
                  <td className="nowrap">
                    <Time value={template.createdAt} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </TableScroll>
      )}
      <MoreButton {...list} />
      {isCreating ? (
        <TemplateDialog
          base={undefined}
          onClose={() => setCreating(false)}
          onSaved={({ name }) => navigate(pathOf('templates', name))}
        />
      ) : null}
    </Page>
  );
}
