import { testLifecycleCatalog } from './lifecycle-contract-fixture.js';
import { openMemoryHarness } from './memory-lifecycle-fixture.js';

testLifecycleCatalog('memory', async () => openMemoryHarness());
