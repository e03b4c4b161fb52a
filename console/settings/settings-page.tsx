import './settings.css';
import { useQuery } from '@connectrpc/connect-query';
import { AdminService, type Setting } from '../../gen/client/sendbatch/v1/admin_service_pb.ts';
import type { Translator } from '../i18n/texts.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { useQueryParams } from '../ui/address.ts';
import { Badge } from '../ui/display.tsx';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { Page } from '../ui/page.tsx';
import { SettingTabs } from './tabs.tsx';
import { settingTexts } from './texts.ts';
import { useDescriptions } from './use-descriptions.ts';

/** The settings in force, with where each comes from. */
export default function SettingsPage() {
  const t = useTexts(settingTexts);
  const descriptions = useDescriptions();
  const [params, setParams] = useQueryParams();
  const query = params.get('q') ?? '';
  const isOnlyChanged = params.get('changed') === '1';
  const { data, error, isPending, refetch } = useQuery(AdminService.method.listSettings, {});
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const about = (setting: Setting) => descriptions[setting.name] ?? setting.description;
  const shown = (data?.settings ?? []).filter((setting) => {
    const text = `${setting.name} ${about(setting)}`.toLowerCase();
    return words.every((word) => text.includes(word)) && (!isOnlyChanged || setting.source !== 'default');
  });
  return (
    <Page title={t('title')} lead={t('lead')}>
      <SettingTabs />
      <div className="row end">
        <Field label={t('find')}>
          {(props) => (
            <input {...props} type="search" value={query} onChange={({ target }) => setParams({ q: target.value })} />
          )}
        </Field>
        <label className="check">
          <input
            type="checkbox"
            checked={isOnlyChanged}
            onChange={({ target }) => setParams({ changed: target.checked ? '1' : '' })}
          />
          {t('onlyChanged')}
        </label>
        <span role="status" className="muted small">
          {data === undefined ? '' : t('count', { count: shown.length })}
        </span>
      </div>
      {error === null ? null : <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {isPending ? <Loading /> : null}
      {data !== undefined && shown.length === 0 ? <Empty title={t('none')} /> : null}
      <ul className="stack settings" aria-label={t('table')}>
        {shown.map((setting) => (
          <li key={setting.name} className="card stack tight">
            <div className="row spread">
              <h2>
                <code>{setting.name}</code>
              </h2>
              <span className="muted small">
                <Source source={setting.source} />
              </span>
            </div>
            <div>
              <Value setting={setting} />
            </div>
            <p>{about(setting)}</p>
            <p className="muted small">
              {setting.bounds === '' ? null : `${t('bounds', { bounds: boundsInWords(t, setting.bounds) })} · `}
              {t('defaultValue', { value: setting.defaultValue === '' ? t('noValue') : setting.defaultValue })}
            </p>
          </li>
        ))}
      </ul>
    </Page>
  );
}

/** Bounds are written in English, for Markdown; their last word is a kind or a unit. */
function boundsInWords(t: Translator<typeof settingTexts.en>, bounds: string): string {
  const plain = bounds.replaceAll('`', '');
  return plain.replace(/(?<=^| )(?:text|path|ms|days)$/, (word) => t(`boundWords.${word as 'text'}`));
}

function Value({ setting }: { readonly setting: Setting }) {
  const t = useTexts(settingTexts);
  if (setting.secret)
    return setting.isSet ? (
      <Badge tone="info">{t('secretSet')}</Badge>
    ) : (
      <span className="muted">{t('secretUnset')}</span>
    );
  return setting.value === '' ? <span className="muted">{t('noValue')}</span> : <code>{setting.value}</code>;
}

function Source({ source }: { readonly source: string }) {
  const t = useTexts(settingTexts);
  if (source === 'default') return t('sources.default');
  return source === 'the environment' ? t('sources.environment') : source;
}
