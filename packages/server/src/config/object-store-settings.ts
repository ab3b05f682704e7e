/** The settings of stores elsewhere: their part of the table in settings.ts. */
import { choice, type Kind, text, url, yesNo } from './kinds.js';

const objectPrefix = text({
  placeholder: 'prefix',
  expects: 'a prefix of letters, digits and "_-./" such as payloads/ (not beginning with "/")',
  pattern: /^(?!.*\/\/)(?!(?:.*\/)?\.{1,2}(?:\/|$))[\w.-][\w./-]{0,199}$/,
});

function endpoint(example: string): Kind<string> {
  return url({
    schemes: ['http:', 'https:'],
    example,
    accept: (parsed) => parsed.username === '' && parsed.password === '',
  });
}

export const objectStoreSettings = {
  s3Bucket: {
    flag: 's3-bucket',
    kind: text({ placeholder: 'name', expects: 'the name of a bucket such as my-payloads', pattern: /^[\w.:/-]+$/ }),
    group: 'S3',
    also: ['BUCKET'],
    help: 'Bucket for the blobs. Required with store s3.',
  },
  s3Region: {
    flag: 's3-region',
    kind: text({ placeholder: 'region', expects: 'a region such as eu-central-1', pattern: /^[\w-]+$/ }),
    group: 'S3',
    also: ['AWS_REGION', 'AWS_DEFAULT_REGION'],
    defaultHelp: 'as the AWS SDK finds it',
    help: 'Region of the bucket.',
  },
  s3Endpoint: {
    flag: 's3-endpoint',
    kind: endpoint('http://127.0.0.1:9000'),
    group: 'S3',
    also: ['AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL'],
    defaultHelp: 'AWS',
    help: 'Server that speaks the S3 protocol, such as MinIO.',
  },
  s3PathStyle: {
    flag: 's3-path-style',
    kind: yesNo(),
    group: 'S3',
    defaultHelp: 'on with --s3-endpoint, off on AWS',
    help: 'Put the bucket into the path of a request instead of the host name.',
  },
  s3StorageClass: {
    flag: 's3-storage-class',
    kind: text({
      placeholder: 'class',
      expects: 'a storage class such as STANDARD',
      pattern: /^[A-Z][A-Z0-9_]{0,63}$/,
    }),
    group: 'S3',
    defaultHelp: 'INTELLIGENT_TIERING on AWS, none with --s3-endpoint',
    help: 'Storage class of new objects.',
  },
  s3Prefix: {
    flag: 's3-prefix',
    kind: objectPrefix,
    group: 'S3',
    help: 'Put in front of every object name, so that a bucket can be shared. End it with "/".',
  },
  s3Encryption: {
    flag: 's3-encryption',
    kind: choice('none', 'sse-s3', 'sse-kms'),
    group: 'S3',
    default: 'none',
    help: 'Encryption to ask the bucket for; none leaves it to the settings of the bucket.',
  },
  s3KmsKeyId: {
    flag: 's3-kms-key-id',
    kind: text({ placeholder: 'id', expects: 'the id, alias or ARN of a KMS key', pattern: /^[\w:/-]+$/ }),
    group: 'S3',
    defaultHelp: 'the KMS key of the account',
    help: 'KMS key for --s3-encryption sse-kms.',
  },
  s3ConditionalPut: {
    flag: 's3-conditional-put',
    kind: choice('if-none-match', 'head'),
    group: 'S3',
    default: 'if-none-match',
    help: 'How an object is kept from being written twice; head is for servers without If-None-Match.',
  },
  s3Checksums: {
    flag: 's3-checksums',
    kind: yesNo(),
    group: 'S3',
    default: 'true',
    help: 'Send the SHA-256 of every object in a header of its own, so that the bucket checks and keeps it.',
    helpOff: 'Do not send the SHA-256 of objects in a header of its own, for servers that refuse it.',
  },

  gcsBucket: {
    flag: 'gcs-bucket',
    kind: text({
      placeholder: 'name',
      expects: 'the name of a bucket such as my-payloads',
      pattern: /^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/,
    }),
    group: 'GCS',
    also: ['BUCKET'],
    help: 'Bucket for the blobs. Required with store gcs.',
  },
  gcsEndpoint: {
    flag: 'gcs-endpoint',
    kind: endpoint('http://127.0.0.1:4443'),
    group: 'GCS',
    defaultHelp: 'Google, or STORAGE_EMULATOR_HOST as the SDK reads it',
    help: 'Another server that speaks the JSON API of Google Cloud Storage. It gets no credentials unless it is Google’s.',
  },
  gcsPrefix: {
    flag: 'gcs-prefix',
    kind: objectPrefix,
    group: 'GCS',
    help: 'Put in front of every object name, so that a bucket can be shared. End it with "/".',
  },

  azureContainer: {
    flag: 'azure-container',
    kind: text({
      placeholder: 'name',
      expects: 'the name of a container such as my-payloads',
      pattern: /^(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/,
    }),
    group: 'Azure',
    also: ['BUCKET'],
    help: 'Container for the blobs. Required with store azure.',
  },
  azureAccount: {
    flag: 'azure-account',
    kind: text({
      placeholder: 'name',
      expects: 'the name of a storage account such as mypayloads',
      pattern: /^[a-z0-9]{3,24}$/,
    }),
    group: 'Azure',
    also: ['AZURE_STORAGE_ACCOUNT_NAME'],
    help: 'Storage account of the container. Who we are is found by the Azure SDK.',
  },
  azureEndpoint: {
    flag: 'azure-endpoint',
    kind: endpoint('https://mypayloads.blob.core.windows.net'),
    group: 'Azure',
    defaultHelp: 'that of the account',
    help: 'Blob service of the storage account, where its URL is another one.',
  },
  azureConnectionString: {
    flag: 'azure-connection-string',
    kind: text({
      placeholder: 'text',
      expects: 'a connection string such as DefaultEndpointsProtocol=https;AccountName=mypayloads;AccountKey=…',
      pattern: /^\w+=[^;]*(;\w+=[^;]*)*;?$/,
    }),
    group: 'Azure',
    secret: true,
    help: 'Account with its key, or with a shared access signature, instead of --azure-account.',
  },
  azurePrefix: {
    flag: 'azure-prefix',
    kind: objectPrefix,
    group: 'Azure',
    help: 'Put in front of every blob name, so that a container can be shared. End it with "/".',
  },
} as const;
