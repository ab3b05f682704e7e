import { startVersitygw } from '@large-payload/test-components';
import { describe, it } from 'vitest';
import { testBlobStore } from '../conformance.js';
import { openS3Store } from './s3.js';

const gateway = await startVersitygw();
if (gateway !== undefined) {
  const { endpoint, region, bucket, accessKeyId, secretAccessKey } = gateway;
  const open = async () => {
    const store = await openS3Store({ endpoint, region, bucket, credentials: { accessKeyId, secretAccessKey } });
    return {
      store,
      close: async () => {
        await store.close?.();
        await gateway.stop();
      },
    };
  };
  testBlobStore('s3', open, { runner: { describe, it } });
}
