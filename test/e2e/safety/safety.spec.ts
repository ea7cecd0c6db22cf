import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { deferred } from '../../../src/util/deferred.js';
import { type IdempotencyModuleOptions, IdempotencyService } from '../../../src/index.js';
import { queryOn } from '../../support/empty-database.js';
import { headerOf, replayOf } from '../../support/response.js';
import { ADAPTERS, createTestApp, INSTANCES, type TestApp } from '../../support/test-app.js';
import { waitFor } from '../../support/wait-for.js';
import { allowed, calls, gate, SafetyController, SECRET } from './safety.controller.js';

const KEYS = { old: randomBytes(32), new: randomBytes(32).toString('base64') };

describe.each(ADAPTERS)('what is stored and who gets it on %s', (adapter) => {
  /** Over one database: without encryption, with the old key, with both of which the new one is current, with the new one; and without, but with a secret of fingerprints. */
  const apps = {} as Record<'plain' | 'old' | 'rotated' | 'new' | 'keyed', TestApp>;

  beforeAll(async () => {
    const start = (idempotency: IdempotencyModuleOptions, databaseUrl?: string) =>
      createTestApp({ adapter, controllers: [SafetyController], idempotency, databaseUrl });
    apps.plain = await start({});
    const { databaseUrl } = apps.plain;
    apps.old = await start({ encryption: { keys: { old: KEYS.old }, currentKeyId: 'old' } }, databaseUrl);
    apps.rotated = await start({ encryption: { keys: KEYS, currentKeyId: 'new' } }, databaseUrl);
    apps.keyed = await start({ fingerprintSecret: 'sixteen characters' }, databaseUrl);
    apps.new = await start({ encryption: { keys: { new: KEYS.new }, currentKeyId: 'new' } }, databaseUrl);
  });

  afterEach(async () => {
    calls.length = 0;
    gate.inside = 0;
    gate.opened = deferred();
    allowed.replay = true;
    await queryOn(apps.plain.databaseUrl, 'truncate idempotency_keys, idempotency_steps');
  });

  afterAll(async () => {
    for (const app of [apps.new, apps.keyed, apps.rotated, apps.old, apps.plain]) {
      await app.close();
    }
  });

  const post = (app: TestApp, path: string, key = 'k', body: object = {}, caller = 'ada') =>
    app.post(path, key, body, [['X-Caller', caller]]);
  const stored = async () =>
    JSON.stringify([
      ...(await queryOn(
        apps.plain.databaseUrl,
        `select *, encode(response_body, 'escape') as body from idempotency_keys`,
      )),
      ...(await queryOn(apps.plain.databaseUrl, 'select outcome::text from idempotency_steps')),
    ]);

  it('an encrypted response is replayed byte for byte, and not to be read in the table', async () => {
    const first = await post(apps.old, '/pay');
    expect(headerOf(first, 'x-reference')).toBe(SECRET);
    expect(await post(apps.old, '/pay')).toEqual(replayOf(first));
    expect(await stored()).not.toContain(SECRET);
    expect(calls).toEqual(['pay']);
  });

  it('what was stored before encryption, or with a former key, goes on being replayed', async () => {
    const [plain, old] = [await post(apps.plain, '/pay', 'plain'), await post(apps.old, '/pay', 'old')];
    expect((await post(apps.rotated, '/pay', 'plain')).body).toEqual(plain.body);
    expect((await post(apps.rotated, '/pay', 'old')).body).toEqual(old.body);
    const rotated = await post(apps.rotated, '/pay', 'rotated');
    expect(rotated.status).toBe(201);
    expect(await stored()).toMatch(/\[\\"new\\"/);
  });

  it.each(['new', 'plain'] as const)('a key that is not there answers 503 and says which: %s', async (name) => {
    await post(apps.old, '/pay');
    const refused = await post(apps[name], '/pay');
    expect(refused.status).toBe(503);
    expect(refused.body.toString()).toContain('encrypted with the key \\"old\\"');
    expect(calls).toEqual(['pay']);
  });

  it('what is moved to another key, or changed, is not given to anybody', async () => {
    await post(apps.old, '/pay', 'mine', {}, 'ada');
    await post(apps.old, '/pay', 'theirs', {}, 'bob');
    const [mine] = await queryOn<{ headers: unknown; body: Buffer }>(
      apps.plain.databaseUrl,
      `select response_headers as headers, response_body as body from idempotency_keys where scope = 'ada'`,
    );
    await queryOn(
      apps.plain.databaseUrl,
      `update idempotency_keys set response_headers = $1::jsonb, response_body = $2::bytea where scope = 'bob'`,
      [JSON.stringify(mine!.headers), mine!.body],
    );
    const refused = await post(apps.old, '/pay', 'theirs', {}, 'bob');
    expect(refused.status).toBe(503);
    expect(refused.body.toString()).toContain('cannot be decrypted');
    expect(refused.body.toString()).not.toContain(SECRET);
  });

  it('steps are encrypted as well, and remembered', async () => {
    expect((await post(apps.old, '/steps')).status).toBe(500);
    const rows = await stored();
    expect(rows).toContain('sealed');
    expect(rows).not.toContain(SECRET);
    const refused = await post(apps.new, '/steps');
    expect(refused.status).toBe(503);
    expect(refused.body.toString()).toContain('encrypted with the key \\"old\\"');
    const second = await post(apps.rotated, '/steps');
    expect(JSON.parse(second.body.toString())).toEqual({ charged: { card: SECRET }, booked: { card: SECRET } });
    expect(calls).toEqual(['charge', 'book']);
  });

  it("an operator's answer is encrypted, too", async () => {
    await post(apps.old, '/steps');
    await apps.old.app.get(IdempotencyService).resolve('k', { status: 201, body: { card: SECRET } }, 'ada');
    expect(await stored()).not.toContain(SECRET);
    expect(JSON.parse((await post(apps.old, '/steps')).body.toString())).toEqual({ card: SECRET });
  });

  it('a response that is not to be stored is not, and a retry is told that the operation was done', async () => {
    expect((await post(apps.plain, '/unstored')).body.toString()).toContain(SECRET);
    expect(await stored()).not.toContain(SECRET);
    const retry = await post(apps.plain, '/unstored');
    expect([retry.status, retry.body.toString()]).toEqual([409, expect.stringContaining('"original_status":201')]);
    expect(calls).toEqual(['unstored']);
  });

  it('what is redacted is neither stored nor replayed', async () => {
    const first = await post(apps.plain, '/redacted');
    expect([headerOf(first, 'x-reference'), first.body.toString()]).toEqual([SECRET, `{"card":"${SECRET}"}`]);
    expect(await stored()).not.toContain(SECRET);
    const retry = await post(apps.plain, '/redacted');
    expect([headerOf(retry, 'x-reference'), retry.body.toString()]).toEqual([undefined, '{"card":"***"}']);
  });

  it('a response that cannot be redacted is not stored, and its request rolled back', async () => {
    for (const attempt of [1, 2]) {
      expect((await post(apps.plain, '/unredactable')).status).toBe(500);
      expect(calls).toHaveLength(attempt);
    }
    expect(await stored()).toBe('[]');
  });

  it('a caller who may no longer see a response gets 403 in its place', async () => {
    const first = await post(apps.plain, '/guarded');
    allowed.replay = false;
    const refused = await post(apps.plain, '/guarded');
    expect([refused.status, refused.body.toString()]).toEqual([403, expect.stringContaining('replay-forbidden')]);
    expect(refused.body.toString()).not.toContain(SECRET);
    allowed.replay = true;
    expect((await post(apps.plain, '/guarded')).body).toEqual(first.body);
  });

  it('one scope has no more requests under way than it may, and the others are served', async () => {
    const most = 2 * INSTANCES; // each process counts its own
    const running = Array.from({ length: most }, (_, number) => post(apps.plain, '/slow', `running ${number}`));
    await waitFor(() => gate.inside === most, { what: 'as many as may to be inside' });
    const refused = await post(apps.plain, '/slow', 'refused');
    expect([refused.status, headerOf(refused, 'retry-after')]).toEqual([429, '1']);
    const others = post(apps.plain, '/slow', 'one', {}, 'bob');
    await waitFor(() => gate.inside === most + 1, { what: 'another caller to be inside' });
    gate.opened.resolve();
    expect((await Promise.all([...running, others])).map(({ status }) => status)).toEqual(Array(most + 1).fill(201));
    expect((await post(apps.plain, '/slow', 'refused')).status).toBe(201);
  });

  it('a fingerprint by a secret is none that can be found by trying, and tells retries all the same', async () => {
    const pin = { pin: '1234' };
    await post(apps.plain, '/pin', 'before', pin);
    await post(apps.keyed, '/pin', 'k', pin);
    await post(apps.plain, '/pin', 'same', pin);
    const rows = await queryOn<{ key: string; print: string }>(
      apps.plain.databaseUrl,
      `select key, encode(fingerprint, 'hex') as print from idempotency_keys order by key`,
    );
    const [before, keyed, same] = rows.map(({ print }) => print);
    expect([before === same, before === keyed]).toEqual([true, false]);
    expect((await post(apps.keyed, '/pin', 'k', pin)).status).toBe(200);
    expect((await post(apps.keyed, '/pin', 'k', { pin: '1235' })).status).toBe(422);
    // recorded before there was a secret
    expect((await post(apps.keyed, '/pin', 'before', pin)).status).toBe(200);
    expect((await post(apps.keyed, '/pin', 'before', { pin: '1235' })).status).toBe(422);
  });

  it('forgetScope leaves nothing of a person, and all of the others', async () => {
    await post(apps.plain, '/pay', 'one');
    await post(apps.plain, '/steps', 'two');
    await post(apps.plain, '/pay', 'one', {}, 'bob');
    const service = apps.plain.app.get(IdempotencyService);
    await expect(service.forgetScope('ada')).resolves.toBe(2);
    await expect(service.forgetScope('ada')).resolves.toBe(0);
    await expect(
      queryOn(
        apps.plain.databaseUrl,
        'select scope from idempotency_keys union all select scope from idempotency_steps',
      ),
    ).resolves.toEqual([{ scope: 'bob' }]);
  });
});
