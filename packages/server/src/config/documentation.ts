import { allSettings, defaultOf, envOf, groups, type Setting } from './settings.js';

const opening = `# Settings

Every setting of \`lps serve\`. This page is written from the table in \`packages/server/src/config/settings.ts\`; a test
compares the two. After a change of the table: \`npx vitest run packages/server/src/config/documentation.test.ts -u\`.

A setting can be given in three places. The first one that has it counts:

1. a flag: \`--max-blob-bytes 2GiB\`
2. a variable of the environment: \`LPS_MAX_BLOB_BYTES=2GiB\`
3. a line of the file that \`--config FILE\` or \`LPS_CONFIG\` names: \`max-blob-bytes: 2GiB\`

\`lps config print\` shows every value and where it came from. What is wrong is refused at the start, all of it at once:
values out of range, and names that do not exist, with the name that was probably meant.

- **Sizes** are bytes or have a unit: \`1048576\`, \`64MiB\`, \`1GiB\`, \`200kB\` (1 kB is 1000 bytes, 1 KiB is 1024).
- **Times** have a unit: \`500ms\`, \`30s\`, \`5m\`, \`12h\`, \`7d\`.
- **Lists** are flags that are given several times, values with commas between them, or a list in the file.
- **Yes or no**: \`true\`, \`false\`, \`yes\`, \`no\`, \`on\`, \`off\`, \`1\`, \`0\`. As a flag: \`--metrics\` or \`--no-metrics\`.
- **Paths** that are relative start at the directory in which \`lps\` was started.
- **Secrets** can be read from a file: \`LPS_DATABASE_URL_FILE=/run/secrets/database-url\`. They are never shown.
- **Variables of other programs** (\`BUCKET\` of the Go service, \`AWS_REGION\` …) count only when the setting is given in
  none of the three places. Credentials for S3, GCS and Azure are found by their SDKs as usual.
- An **empty variable** counts as not set. Variables that Kubernetes makes for a Service called \`lps\` (\`LPS_PORT=tcp://…\`,
  \`LPS_SERVICE_HOST\` …) are left alone.

A file:

\`\`\`yaml
store: s3
s3-bucket: my-payloads
s3-region: eu-central-1
max-blob-bytes: 2GiB
\`\`\`
`;

/** The whole text of docs/config.md. */
export function settingsDocumentation(): string {
  const sections = groups.map((group) => {
    const rows = allSettings.filter(([, setting]) => setting.group === group).map(([, setting]) => row(setting));
    return `\n## ${group}\n\n| flag | variable | default | |\n|---|---|---|---|\n${rows.join('')}`;
  });
  return `${opening}${sections.join('')}`;
}

function row(setting: Setting): string {
  const { placeholder, expects } = setting.kind;
  const { isList } = setting.kind;
  const value = placeholder === undefined ? '' : ` <${placeholder}>${isList ? ' …' : ''}`;
  const variables = [envOf(setting), ...(setting.secret ? [`${envOf(setting)}_FILE`] : [])];
  const also = (setting.also ?? []).map((name) => `\`${name}\``).join(', ');
  const standard = !setting.default ? defaultOf(setting) : `\`${setting.default}\``;
  const help = `${setting.help} Takes ${expects}.${also === '' ? '' : ` Also read: ${also}.`}`;
  const cells = [`\`--${setting.flag}${value}\``, variables.map((name) => `\`${name}\``).join(' '), standard, help];
  return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`;
}
