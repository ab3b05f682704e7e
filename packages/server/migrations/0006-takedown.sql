-- Who may still serve what was deleted or taken down (docs/decisions/0006-read-leases.md).

-- One row: the number of the last event. Whoever adds events holds it until the end of his transaction, so numbers are in the
-- order of the commits; whoever grants a lease shares it, so a lease either is seen by those who wait for leases to end, or
-- knows of the event.
CREATE TABLE event_counter (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  last bigint NOT NULL DEFAULT 0,
  -- events up to this one are forgotten
  forgotten bigint NOT NULL DEFAULT 0,
  -- how long a lease on reading lasts in this installation, in ms; null until somebody has said so
  lease_ms bigint
) WITH (fillfactor = 10);
INSERT INTO event_counter DEFAULT VALUES;

-- What nobody may serve any more from what he keeps.
CREATE TABLE event (
  id bigint PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL CHECK (kind IN ('delete', 'takedown')),
  key text COLLATE "C" NOT NULL,
  physical_key text COLLATE "C" NOT NULL
);
CREATE INDEX event_at ON event (at);

-- Every process that answers reads from something it keeps.
CREATE TABLE node (
  id text COLLATE "C" PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('replica', 'cache')),
  -- for people: a host, a version
  name text NOT NULL,
  -- whose credential asked: while the lease lasts, nobody else's renews or ends it; null for a replica
  owner text COLLATE "C",
  started_at timestamptz NOT NULL DEFAULT now(),
  renewed_at timestamptz NOT NULL DEFAULT now(),
  -- until then it may serve what it keeps
  lease_until timestamptz NOT NULL,
  -- all events up to this one have been applied
  cursor bigint NOT NULL
) WITH (fillfactor = 50);

-- Erasure on request. A row for ever: what was asked, how far it is, and the receipt.
CREATE TABLE takedown (
  id uuid PRIMARY KEY,
  namespace text COLLATE "C" NOT NULL,
  selector jsonb NOT NULL,
  with_same_digest boolean NOT NULL,
  is_blocking boolean NOT NULL,
  reason text NOT NULL,
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT now(),
  -- planning: what is meant is being looked for. accepting: the rows are taken down, nodes are being told. accepted: nobody
  -- with a catalog serves it. completed: nobody does, and it was looked for again. failed: nothing was done, `problem` says why
  state text NOT NULL CHECK (state IN ('planning', 'accepting', 'accepted', 'completed', 'failed')),
  accepted_at timestamptz,
  completed_at timestamptz,
  -- the last event of its acceptance
  event bigint,
  -- of its acceptance: a transaction below this one may have been missed by it, and so may a row of before that time
  xact xid8,
  looked_at timestamptz,
  -- what it waits for or could not do, for people
  problem text,
  receipt text
);
CREATE INDEX takedown_namespace ON takedown (namespace, requested_at DESC, id);
CREATE INDEX takedown_unfinished ON takedown (id) WHERE state IN ('planning', 'accepting', 'accepted');

-- What a takedown erases. Names of objects: none of them is served, taken in or written again.
CREATE TABLE takedown_blob (
  takedown_id uuid NOT NULL REFERENCES takedown,
  physical_key text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  -- null for an object that the catalog did not know, until it is accepted
  blob_id bigint,
  size bigint NOT NULL,
  -- that stood there under this name before, with versions and delete markers
  objects integer NOT NULL DEFAULT 0,
  erased_at timestamptz,
  PRIMARY KEY (takedown_id, physical_key)
);
CREATE INDEX takedown_blob_name ON takedown_blob (physical_key);
CREATE INDEX takedown_blob_id ON takedown_blob (blob_id);

-- What Temporal said that the runs hold which a takedown means.
CREATE TABLE takedown_digest (
  takedown_id uuid NOT NULL REFERENCES takedown,
  digest bytea NOT NULL CHECK (length(digest) = 32),
  PRIMARY KEY (takedown_id, digest)
);

-- What may not be uploaded again: under one prefix ('' for none), or under any.
CREATE TABLE block (
  namespace text COLLATE "C" NOT NULL,
  digest bytea NOT NULL CHECK (length(digest) = 32),
  is_any_prefix boolean NOT NULL,
  prefix text COLLATE "C" NOT NULL,
  takedown_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (namespace, digest, is_any_prefix, prefix),
  CHECK (NOT is_any_prefix OR prefix = '')
);

-- URLs that were given out for uploads past the service: until then an object of this name can appear.
CREATE TABLE upload_url (
  physical_key text COLLATE "C" NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (physical_key, expires_at)
);
CREATE INDEX upload_url_expiry ON upload_url (expires_at);
