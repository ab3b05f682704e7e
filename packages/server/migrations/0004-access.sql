-- Who may call, and what the callers did that somebody may ask about later.

-- Static tokens. Only a hash of the secret part is kept. A plain SHA-256 is enough: the secret is 256 random bits, so
-- there is nothing to guess, and a slow hash or a salt (which passwords need) would only make each request dearer.
CREATE TABLE access_token (
  -- the part of the token that is no secret
  id text COLLATE "C" PRIMARY KEY,
  secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  name text NOT NULL,
  -- [{"namespaces": ["orders", "billing-*"], "rights": ["read", "write"]}]
  grants jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  -- a day, so that a token in use is not written with each request
  last_used_on date
);

-- One row a request that the audit wants to know of. Never bytes of payloads.
CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- by the clock of the service, as in its log
  at timestamptz NOT NULL,
  principal text NOT NULL,
  action text NOT NULL,
  namespaces text[] NOT NULL,
  -- keys of blobs, ids of workflows or tokens
  subjects text[] NOT NULL,
  -- what HTTP answered; 200 for what was done by hand
  status smallint NOT NULL,
  request_id text,
  remote text
);

CREATE INDEX audit_at ON audit (at);
