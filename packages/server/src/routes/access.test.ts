import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AccessSite, issuer, openAccessSite } from '../auth/access-fixture.js';
import { type Answer, request, startApp } from '../http/testing.js';

describe('GET /v3/access', () => {
  let site: AccessSite;
  beforeAll(async () => {
    site = await openAccessSite();
  });
  afterAll(() => site?.close());
  const ask = (token: string): Promise<Answer> =>
    request(site.port, '/v3/access', { headers: { authorization: `Bearer ${token}` } });

  it('says what a static token allows, and until when', async () => {
    const expiresAt = new Date(Date.now() + 3_600_000);
    const { status, headers, text } = await ask(
      await site.token({ orders: ['read'], 'billing-*': ['write'] }, expiresAt),
    );
    expect([status, headers['cache-control']]).toEqual([200, 'private, no-store']);
    expect(JSON.parse(text)).toEqual({
      subject: expect.stringMatching(/^token:[0-9a-z]+$/),
      grants: [
        { namespaces: ['orders'], rights: ['read'] },
        { namespaces: ['billing-*'], rights: ['write'] },
      ],
      expiresAt: expiresAt.toISOString(),
    });
    expect(JSON.parse((await ask(await site.token({ orders: ['read'] }))).text).expiresAt).toBeUndefined();
  });

  it('says what a JWT allows, also when that is nothing', async () => {
    const found = JSON.parse((await ask(await site.issuer.token({ grants: { orders: ['decode'] } }))).text);
    expect(found).toEqual({
      subject: `jwt:${issuer}|somebody`,
      grants: [{ namespaces: ['orders'], rights: ['decode'] }],
      expiresAt: expect.any(String),
    });
    expect(new Date(found.expiresAt).getTime()).toBeGreaterThan(Date.now());
    expect(JSON.parse((await ask(await site.issuer.token())).text).grants).toEqual([]);
  });

  it('says that anybody may do anything where nobody is asked', async () => {
    const app = await startApp();
    const { text } = await request(app.port, '/v3/access');
    expect(JSON.parse(text)).toEqual({
      subject: 'anonymous',
      grants: [{ namespaces: ['*'], rights: ['read', 'write', 'decode', 'admin'] }],
    });
    await app.close();
  });
});
