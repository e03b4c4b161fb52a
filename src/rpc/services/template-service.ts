import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import {
  TemplateFormat,
  type TemplateSchema,
  type TemplateService,
} from '../../../gen/sendbatch/v1/template_service_pb.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import { invalidField } from '../../messages/service-error.ts';
import type { DescribedTemplate, Templates } from '../../templates/templates.ts';
import { parsePageToken } from '../page-token.ts';

/** What TemplateService needs. */
export interface TemplateServiceParts {
  readonly templates: Templates;
}

export const formatOf = (format: TemplateFormat): 'json' | 'text' => (format === TemplateFormat.JSON ? 'json' : 'text');

/** Implements sendbatch.v1.TemplateService: each RPC converts between the proto and a use case. */
export function createTemplateService({ templates }: TemplateServiceParts): ServiceImpl<typeof TemplateService> {
  return {
    createTemplate: async ({ name, body, format }) => ({
      template: toMessage(await templates.create({ name, body, format: formatOf(format) })),
    }),
    getTemplate: async ({ name, version }) => ({ template: toMessage(await templates.get(name, version)) }),
    async listTemplates({ pageSize, pageToken }) {
      const limit = pageSize || limits.pageMessagesDefault;
      const { page, last } = pageOf(await templates.list(pageToken, limit + 1), limit);
      return { templates: page.map(toMessage), nextPageToken: last?.name ?? '' };
    },
    async listTemplateVersions({ name, pageSize, pageToken }) {
      const limit = pageSize || limits.pageMessagesDefault;
      const [before] = parsePageToken(pageToken);
      const { page, last } = pageOf(await templates.versions(name, before, limit + 1), limit);
      return { versions: page.map(toMessage), nextPageToken: last === undefined ? '' : String(last.version) };
    },
    async deleteTemplate({ name }) {
      await templates.remove(name);
      return {};
    },
    async previewTemplate({ name, version, body, format, variables = {} }) {
      if ((name === '') === (body === '')) throw invalidField('name', 'or body is required, exactly one of them');
      const text = body === '' ? { name, version } : { name: 'preview', body, format: formatOf(format) };
      return { payload: await templates.preview(text, variables) };
    },
  };
}

function toMessage(stored: DescribedTemplate): MessageInitShape<typeof TemplateSchema> {
  return {
    name: stored.name,
    version: stored.version,
    body: stored.body,
    format: stored.format === 'json' ? TemplateFormat.JSON : TemplateFormat.TEXT,
    variables: [...stored.variables],
    createdAt: timestampFromMs(stored.createdAt),
  };
}
