// The official SDK against the simulator, after nothing but a change of base URL.
// node --experimental-websocket drive.mjs <address of peers> <token> <directory of node_modules>
import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';

const [peers, token, installed] = process.argv.slice(2);
const { SpritesClient } = await import(pathToFileURL(`${installed}/node_modules/@fly/sprites/dist/index.js`));
const client = new SpritesClient(token, { baseURL: `http://${peers}/` });

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function eventually(what, work) {
  for (let tries = 0; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (tries >= 400) throw new Error(`never: ${what}`, { cause: error });
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

const steps = {
  async create() {
    for (const name of ['sdk-a', 'sdk-b', 'sdk-c']) await client.createSprite(name);
    await assert.rejects(client.createSprite('sdk-a'), /already exists/);
  },
  async list() {
    const first = await client.listSprites({ prefix: 'sdk-', maxResults: 2 });
    assert.deepEqual(first.sprites.map((s) => s.name), ['sdk-a', 'sdk-b']);
    assert.equal(first.hasMore, true);
    const second = await client.listSprites({ prefix: 'sdk-', maxResults: 2, continuationToken: first.nextContinuationToken });
    assert.deepEqual([second.sprites.map((s) => s.name), second.hasMore], [['sdk-c'], false]);
    const everything = await client.listAllSprites('sdk-');
    assert.equal(everything.length, 3);
  },
  async get() {
    const sprite = await client.getSprite('sdk-a');
    assert.equal(sprite.status, 'cold');
    await assert.rejects(client.getSprite('sdk-nope'), /not found/);
  },
  async exec() {
    const sprite = client.sprite('sdk-a');
    const good = await sprite.execFile('bash', ['-c', 'echo out; echo err >&2']);
    assert.deepEqual([good.stdout, good.stderr, good.exitCode], ['out\n', 'err\n', 0]);
    const bad = await sprite.execFile('bash', ['-c', 'echo no >&2; exit 3']).catch((error) => error);
    assert.deepEqual([bad.exitCode, bad.stderr], [3, 'no\n']);
    const quick = await Promise.all(Array.from({ length: 20 }, (_, n) => sprite.exec(`echo ${n}`)));
    assert.deepEqual(quick.map((r) => r.stdout.trim()), quick.map((_, n) => String(n)));
    const cat = sprite.spawn('cat');
    let heard = '';
    cat.stdout.on('data', (chunk) => (heard += chunk));
    await new Promise((resolve) => cat.once('spawn', resolve));
    cat.stdin.end('fed');
    assert.equal(await cat.wait(), 0);
    assert.equal(heard, 'fed');
  },
  async execOverHttp() {
    const sprite = client.sprite('sdk-a');
    const good = await sprite.execFileHTTP('bash', ['-c', 'echo out; cat'], { input: 'in\n' });
    assert.deepEqual([good.stdout, good.exitCode], ['out\nin\n', 0]);
    const bad = await sprite.execFileHTTP('bash', ['-c', 'exit 4']).catch((error) => error);
    assert.equal(bad.exitCode, 4);
  },
  async sessions() {
    const sprite = client.sprite('sdk-a');
    const running = sprite.spawn('bash', ['-c', 'echo up; exec /bin/sleep 1000'], { maxRunAfterDisconnect: '24h' });
    await new Promise((resolve) => running.stdout.once('data', resolve));
    const [session] = await sprite.listSessions();
    assert.match(session.command, /sleep 1000/);
    const events = await all(await sprite.killSession(session.id, 'SIGTERM', '60m'));
    assert.deepEqual(events.map((e) => e.type), ['signal', 'exited', 'complete']);
    assert.equal(await running.wait(), 143);
  },
  async files() {
    const files = client.sprite('sdk-a').filesystem('/home/sprite');
    await files.writeFile('dir/file.txt', 'golden', { mode: 0o600 });
    assert.equal(await files.readFile('dir/file.txt', 'utf8'), 'golden');
    assert.deepEqual(await files.readdir('dir'), ['file.txt']);
    assert.equal((await files.stat('dir/file.txt')).mode, 0o600);
    await files.mkdir('other');
    await files.rename('dir/file.txt', 'other/file.txt');
    await files.copyFile('other/file.txt', 'dir/file.txt');
    await files.rm('other', { recursive: true });
    await assert.rejects(files.readFile('other/file.txt'), (error) => error.code === 'ENOENT');
  },
  async url() {
    const sprite = client.sprite('sdk-a');
    await sprite.updateURLSettings({ auth: 'public' });
    assert.equal((await client.getSprite('sdk-a')).urlSettings?.auth ?? 'public', 'public');
  },
  async services() {
    const sprite = client.sprite('sdk-a');
    const events = await all(await sprite.createService('s', { cmd: '/bin/bash', args: ['-c', 'echo up; exec /bin/sleep 1000'] }, '150s'));
    assert.deepEqual(events.map((e) => e.type), ['started', 'stdout', 'complete']);
    const [service] = await sprite.listServices();
    assert.deepEqual([service.name, service.state.status], ['s', 'running']);
    assert.ok((await all(await sprite.stopService('s'))).some((e) => e.type === 'stopped'));
    assert.equal((await all(await sprite.startService('s', '0')))[0].type, 'started');
  },
  async checkpointAndRestore() {
    const sprite = client.sprite('sdk-a');
    const files = sprite.filesystem('/home/sprite');
    assert.equal((await all(await sprite.createCheckpoint('golden'))).at(-1).type, 'complete');
    const [checkpoint] = await sprite.listCheckpoints();
    assert.deepEqual([checkpoint.id, checkpoint.comment], ['v1', 'golden']);
    await files.writeFile('dir/file.txt', 'changed');
    assert.equal((await all(await sprite.restoreCheckpoint('v1'))).at(-1).data, 'Restored to v1');
    const content = await eventually('the sprite answers', () => files.readFile('dir/file.txt', 'utf8'));
    assert.equal(content, 'golden');
    const [service] = await sprite.listServices();
    assert.equal(service.state.status, 'running');
    await sprite.deleteService('s');
    assert.deepEqual(await sprite.listServices(), []);
  },
  async delete() {
    for (const name of ['sdk-a', 'sdk-b', 'sdk-c']) await client.deleteSprite(name);
    assert.equal((await client.listSprites({ prefix: 'sdk-' })).sprites.length, 0);
    const late = await client.sprite('sdk-a').exec('true').catch((error) => error);
    assert.ok(late instanceof Error);
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log(`done ${name}`);
}
process.exit(0);
