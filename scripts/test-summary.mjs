// What the test runs of .ci/run came to: every failure with its message, each run's slowest files, and last a plain line
// N passed, N failed, N skipped
// Usage: node scripts/test-summary.mjs DIR, where DIR holds the JSON reports of vitest, each named after its run.
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const [dir] = process.argv.slice(2);
const total = { passed: 0, failed: 0, skipped: 0 };

/** At most the first 40 lines of a message, indented and without colours. */
const indented = (message) =>
  stripVTControlCharacters(message)
    .split('\n')
    .slice(0, 40)
    .map((line) => `    ${line}`)
    .join('\n');

for (const name of readdirSync(dir)) {
  const report = JSON.parse(readFileSync(join(dir, name), 'utf8'));
  total.passed += report.numPassedTests;
  total.skipped += report.numPendingTests;

  const files = report.testResults.map((file) => ({ ...file, path: relative('.', file.name) }));
  const slowest = files
    .map(({ path, startTime, endTime }) => ({ path, seconds: Math.round((endTime - startTime) / 1000) }))
    .sort((a, b) => b.seconds - a.seconds)
    .slice(0, 10);
  console.log(`\n${name}: slowest files: ${slowest.map(({ path, seconds }) => `${path} ${seconds} s`).join(', ')}`);

  for (const { path, status, message, assertionResults } of files) {
    const failures = assertionResults.filter((test) => test.status === 'failed');
    for (const test of failures) {
      console.log(`\n${name}: FAILED ${path} > ${test.fullName}\n${indented(test.failureMessages.join('\n'))}`);
    }
    // a file that could not even be loaded counts as a failure too
    if (status === 'failed' && failures.length === 0) {
      console.log(`\n${name}: FAILED ${path}\n${indented(message)}`);
      total.failed += 1;
    }
    total.failed += failures.length;
  }
}
console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
