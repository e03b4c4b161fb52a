import assert from 'node:assert/strict';
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { Webhook } from 'standardwebhooks';
import { endWithFile } from '../support/file-end.ts';
import { startService, type TestService } from '../support/service.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');

/** Go must download nothing: the test is skipped where a module is missing. */
const offline = { GOPROXY: 'off', GOTOOLCHAIN: 'local' };

/**
 * The fenced blocks of a README by language: `sh` runs here, `bash` needs a network, `text` and
 * `json` are the output.
 */
function blocksOf(example: string, language: string): string[] {
  const readme = readFileSync(join(root, 'examples', example, 'README.md'), 'utf8');
  return [...readme.matchAll(/^```(\w+)\n(.*?)^```$/gms)]
    .filter(([, each]) => each === language)
    .map(([, , text = '']) => text);
}

describe('the examples', () => {
  let service: TestService;
  before(async () => {
    service = await startService({
      systemUids: ['system'],
      webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 60_000 },
    });
  });
  after(() => service.stop());
  /**
   * Runs the commands of an example's README as written, in the root of the repository; returns
   * their output.
   */
  const runReadme = async (example: string, env: Record<string, string> = {}): Promise<string> => {
    const script = blocksOf(example, 'sh').join('\n').replaceAll('http://localhost:5001', service.url);
    const { stdout } = await run('sh', ['-e', '-c', script], {
      cwd: root,
      env: { ...process.env, SENDBATCH_URL: service.url, SENDBATCH_ADDRESS: new URL(service.url).host, ...env },
    });
    return stdout;
  };

  test('the curl example prints the answers in its README', async () => {
    const lines = (await runReadme('curl')).split('\n').filter((line) => /^[[{]/.test(line));
    // The output depends on the run, or is prose.
    const plain = (json: string) =>
      JSON.parse(json, (key, value) => {
        if (key === 'message_id') return value === 0 ? 0 : 'an id';
        return key === 'timestamp' || key === 'message' ? typeof value : value;
      });
    assert.deepEqual(lines.map(plain), blocksOf('curl', 'json').map(plain));
  });

  test('the go-grpc example prints what its README says, also on a second run', { skip: goIsMissing() }, async () => {
    const env = {
      GOPROXY: 'off',
      GOTOOLCHAIN: 'local',
      PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
    };
    for (let times = 0; times < 2; times++)
      assert.equal(await runReadme('go-grpc', env), blocksOf('go-grpc', 'text').join(''));
  });

  test('the python-grpc example prints what its README says, also on a second run', {
    skip: pythonIsMissing(),
  }, async () => {
    for (let times = 0; times < 2; times++)
      assert.equal(await runReadme('python-grpc'), blocksOf('python-grpc', 'text').join(''));
  });

  test('the webhook-receiver example accepts a delivery of the service once, and refuses a forged one', async () => {
    const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
    const receiver = spawn(process.execPath, [join(root, 'examples/webhook-receiver/receiver.ts')], {
      env: { ...process.env, PORT: '0', WEBHOOK_SECRET: secret },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    receiver.once(
      'exit',
      endWithFile(() => receiver.kill('SIGKILL')),
    );
    const lines = createInterface(receiver.stdout)[Symbol.asyncIterator]();
    const nextLine = async () => String((await lines.next()).value);
    try {
      const [, url = ''] = /^listening at (http:\S+)$/.exec(await nextLine()) ?? [];
      const script = blocksOf('webhook-receiver', 'sh').join('\n');
      assert.match(script, /http:\/\/127\.0\.0\.1:8080\//);
      const commands = script.replace('http://127.0.0.1:8080/', url).replaceAll('http://localhost:5001', service.url);
      await run('sh', ['-e', '-c', commands], { env: { ...process.env, WEBHOOK_SECRET: secret } });
      assert.equal(`${await nextLine()}\n`, blocksOf('webhook-receiver', 'text').join(''));

      const body = (seq: number) =>
        JSON.stringify({
          type: 'message.stored',
          data: { messages: [{ channel_id: 'own', message_seq: seq, payload: 'eA==' }] },
        });
      const post = async (id: string, key: string, seq: number) => {
        const at = new Date();
        const headers = {
          'webhook-id': id,
          'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
          'webhook-signature': new Webhook(key).sign(id, at, body(seq)),
        };
        return (await fetch(url, { method: 'POST', headers, body: body(seq) })).status;
      };
      const forged = `whsec_${Buffer.alloc(32, 8).toString('base64')}`;
      assert.equal(await post('forged', forged, 1), 401);
      assert.deepEqual(
        [await post('a', secret, 2), await post('a', secret, 2), await post('b', secret, 3)],
        [204, 204, 204],
      );
      assert.deepEqual(
        [await nextLine(), await nextLine(), await nextLine()],
        ['refused: the signature does not match', 'received own 2 x', 'received own 3 x'],
      );
    } finally {
      receiver.kill('SIGTERM');
      await once(receiver, 'close');
    }
  });
});

/** Why the Go example cannot run here without a download; false where it can. */
function goIsMissing(): string | false {
  const folder = join(root, 'examples/go-grpc');
  const required = [...readFileSync(join(folder, 'go.mod'), 'utf8').matchAll(/^\t(\S+) v\S+/gm)];
  const modules = required.map(([, path = '']) => path);
  const listed = spawnSync('go', ['list', '-m', '-f', '{{.Dir}}', ...modules], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, ...offline },
  });
  if (listed.error !== undefined) return 'no go on the PATH';
  const folders = listed.stdout.split('\n').filter((line) => line !== '');
  if (listed.status !== 0 || folders.length < modules.length)
    return 'Go or its modules are not here (go mod download in examples/go-grpc)';
  return false;
}

/** Why the Python example cannot run here; false where it can. */
function pythonIsMissing(): string | false {
  const { status } = spawnSync('python3', ['-c', 'import grpc, grpc_tools, google.api']);
  return status !== 0 && 'no grpcio here: pip install -r examples/python-grpc/requirements.txt';
}
