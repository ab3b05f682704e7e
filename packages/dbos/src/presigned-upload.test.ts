import { describe, expect, it } from 'vitest';
import { expiryOf } from './presigned-upload.js';

const postWith = (policy: string) => ({ url: 'http://localhost', fields: { Policy: policy } });
const encoded = (policy: unknown): string => Buffer.from(JSON.stringify(policy)).toString('base64');

describe('the end of a presigned post', () => {
  it('stands in its policy', () => {
    const policy = encoded({ expiration: '2026-11-23T06:49:19Z', conditions: [] });
    expect(expiryOf(postWith(policy))).toBe(Date.UTC(2026, 10, 23, 6, 49, 19));
  });

  it('is unknown without a policy that can be read', () => {
    const posts = [
      undefined,
      { url: '', fields: {} },
      postWith('no JSON'),
      postWith(encoded({ expiration: 'soon' })),
      postWith(encoded({})),
    ];
    for (const post of posts) expect(expiryOf(post)).toBeUndefined();
  });
});
