#!/usr/bin/env node
// Old syntax only, up to the check: an old Node must get as far as the message.
var parts = process.versions.node.split('.').map(Number);
if (parts[0] < 20 || (parts[0] === 20 && parts[1] < 19)) {
  process.stderr.write(`lps: needs Node 20.19 or newer, and this is Node ${process.versions.node}\n`);
  process.exit(2);
}
// the AWS SDK would print eight lines about Node's age at every start; which Node we support is our own affair
if (process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED === undefined) {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true';
}
import('../dist/cli/main.js').then(
  ({ main }) => main(),
  (error) => {
    var built = error.code !== 'ERR_MODULE_NOT_FOUND';
    process.stderr.write(
      built
        ? `lps: cannot start: ${error.message}\n`
        : 'lps: not built or not installed; run npm ci, then npm run build\n',
    );
    process.exit(1);
  },
);
