import type { Example } from '../example.ts';

/** TemplateService: a template is stored, read, previewed and deleted. */
export const templates: readonly Example[] = [
  {
    route: 'POST /v1/templates',
    summary: 'A JSON greeting',
    body: { name: 'welcome', body: '{"text":"Hi {{ user }}, it is {{ day }}"}', format: 2 },
    status: 200,
    answer: {
      name: 'welcome',
      version: 1,
      body: '{"text":"Hi {{ user }}, it is {{ day }}"}',
      format: 2,
      variables: ['day', 'user'],
      created_at: '2026-11-25T01:11:29.530Z',
    },
  },
  {
    route: 'GET /v1/templates/{name}',
    summary: 'The latest version',
    path: { name: 'welcome' },
    status: 200,
    answer: {
      name: 'welcome',
      version: 1,
      body: '{"text":"Hi {{ user }}, it is {{ day }}"}',
      format: 2,
      variables: ['day', 'user'],
      created_at: '2026-11-25T01:11:29.530Z',
    },
  },
  {
    route: 'GET /v1/templates/{name}/versions',
    summary: 'All versions',
    path: { name: 'welcome' },
    status: 200,
    answer: {
      versions: [
        {
          name: 'welcome',
          version: 1,
          body: '{"text":"Hi {{ user }}, it is {{ day }}"}',
          format: 2,
          variables: ['day', 'user'],
          created_at: '2026-11-25T01:11:29.530Z',
        },
      ],
      next_page_token: '',
    },
  },
  {
    route: 'GET /v1/templates/{name}',
    summary: 'A missing template',
    path: { name: 'missing' },
    status: 404,
    answer: {
      status: 404,
      msg: 'template "missing" does not exist',
      error: {
        code: 5,
        status: 'NOT_FOUND',
        message: 'template "missing" does not exist',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'TEMPLATE_NOT_FOUND',
            domain: 'sendbatch',
            metadata: { template: 'missing', version: '0' },
          },
        ],
      },
    },
  },
  {
    route: 'GET /v1/templates',
    summary: 'The latest version of each template',
    query: { page_size: 10 },
    status: 200,
    answer: {
      templates: [
        {
          name: 'welcome',
          version: 1,
          body: '{"text":"Hi {{ user }}, it is {{ day }}"}',
          format: 2,
          variables: ['day', 'user'],
          created_at: '2026-11-25T01:11:29.530Z',
        },
      ],
      next_page_token: '',
    },
  },
  {
    route: 'POST /v1/templates',
    summary: 'A text template',
    body: { name: 'farewell', body: 'Bye {{ user }}' },
    status: 200,
    answer: {
      name: 'farewell',
      version: 1,
      body: 'Bye {{ user }}',
      format: 1,
      variables: ['user'],
      created_at: '2026-11-25T01:11:29.540Z',
    },
  },
  {
    route: 'DELETE /v1/templates/{name}',
    summary: 'Delete all versions',
    path: { name: 'farewell' },
    status: 200,
    answer: { status: 200 },
  },
  {
    route: 'POST /v1/templates:preview',
    summary: 'Render a stored template',
    body: { name: 'welcome', variables: { user: 'Ann', day: 'Monday' } },
    status: 200,
    answer: { payload: 'eyJ0ZXh0IjoiSGkgQW5uLCBpdCBpcyBNb25kYXkifQ==' },
  },
  {
    route: 'POST /v1/templates:preview',
    summary: 'Render a text with a missing variable',
    body: { body: 'Hi {{ user }}' },
    status: 400,
    answer: {
      status: 400,
      msg: 'template "preview" needs variables that were not given: user',
      error: {
        code: 3,
        status: 'INVALID_ARGUMENT',
        message: 'template "preview" needs variables that were not given: user',
        details: [
          {
            '@type': 'type.googleapis.com/google.rpc.ErrorInfo',
            reason: 'TEMPLATE_FAILED',
            domain: 'sendbatch',
            metadata: { template: 'preview', missing: 'user' },
          },
        ],
      },
    },
  },
];
