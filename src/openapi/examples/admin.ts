import type { Example } from '../example.ts';

/** AdminService: the overview of the service, and its settings. */
export const admin: readonly Example[] = [
  {
    route: 'GET /v1/overview',
    summary: 'The instances, without intervals',
    query: { since: '2099-01-01T00:00:00Z' },
    status: 200,
    answer: {
      interval: '10s',
      since: '2026-11-27T07:40:11.204Z',
      intervals: [],
      instances: [
        {
          instance_id: '6d0c4a4e-3f0b-4f0e-9d0a-0f6f6a3f7a11',
          host: 'sendbatch-0',
          pid: 17,
          version: '0.1.0',
          started_at: '2026-11-27T07:40:11.204Z',
          seen_at: '2026-11-27T08:12:30Z',
          lane_messages: [0, 0, 0, 0],
          tail_readers: 0,
          cpu_cores: 0.02,
          memory_bytes: 142606336,
        },
      ],
    },
  },
  {
    route: 'GET /v1/settings',
    summary: 'One setting',
    query: { names: ['CONSOLE'] },
    status: 200,
    answer: {
      settings: [
        {
          name: 'CONSOLE',
          value: 'on',
          default_value: 'on',
          source: 'default',
          secret: false,
          is_set: true,
          bounds: '`on`, `off`',
          description:
            'on = the console, a web page for people, is served at /console. It calls the API with the credential of whoever signs in. off = it is not served.',
        },
      ],
    },
  },
];
