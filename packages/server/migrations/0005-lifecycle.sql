-- What the collection knows: who in Temporal holds which blobs, when that was looked at, and what stops it.
--
-- Lock order, for every statement and transaction: the leader's row, marks, holders, pins, then blob rows (by id), then
-- lease rows (0001). There are no foreign keys: an edge would cost a lookup and a lock of its holder each.

-- Temporal namespaces that were marked. What is pinned here, at the first mark, tells one cluster and one namespace from
-- another of the same name: only a person replaces it.
CREATE TABLE temporal_namespace (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- its name in the configuration
  cluster text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  cluster_id text NOT NULL,
  namespace_id text NOT NULL,
  server_version text NOT NULL,
  known_since timestamptz NOT NULL DEFAULT now(),
  -- by a person: it is not asked any more, and its holders count as gone since then
  forgotten_at timestamptz,
  CONSTRAINT temporal_namespace_name UNIQUE (cluster, name)
);

-- One row a look at everything in a Temporal namespace. One that never ended belongs to a leader that died: it counts
-- for nothing, and neither does one that is not complete.
CREATE TABLE mark (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  namespace_id bigint NOT NULL,
  -- of the leader that began it
  epoch bigint NOT NULL,
  -- before the first question to Temporal
  started_at timestamptz NOT NULL,
  -- behind the last answer
  ended_at timestamptz,
  is_complete boolean NOT NULL DEFAULT false,
  -- why it is not
  gaps text[] NOT NULL DEFAULT '{}',
  retention_ms bigint NOT NULL,
  holders bigint NOT NULL DEFAULT 0,
  scanned bigint NOT NULL DEFAULT 0,
  CHECK (ended_at >= started_at),
  CHECK (NOT is_complete OR (ended_at IS NOT NULL AND gaps = '{}'))
);

CREATE INDEX mark_namespace ON mark (namespace_id, id);

-- Whatever in Temporal may carry claims; 1e6 of them a namespace, each written once a mark.
-- HOT: seen_by, scanned_by, cursor and is_done are in no index, so a mark leaves the indexes alone.
CREATE TABLE holder (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  namespace_id bigint NOT NULL,
  -- the last mark whose lists had it; ids of marks, which may be forgotten
  seen_by bigint,
  -- the last mark that read it
  scanned_by bigint,
  -- when Temporal said NotFound to its id. Its edges stay for a while: a copy may have been on its way.
  gone_at timestamptz,
  is_done boolean NOT NULL DEFAULT false,
  kind text COLLATE "C" NOT NULL,
  external_id text COLLATE "C" NOT NULL,
  -- null: never read
  cursor text,
  CONSTRAINT holder_key UNIQUE (namespace_id, kind, external_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX holder_walk ON holder (namespace_id, id);
CREATE INDEX holder_gone ON holder (gone_at, id) WHERE gone_at IS NOT NULL;

-- A holder carries a claim of these bytes. By digest, so that a blob that is adopted, imported or uploaded again later
-- has its edges already. Rows are written while the holder's row is locked, and go with it.
CREATE TABLE edge (
  holder_id bigint NOT NULL,
  -- of mutable edges: when a whole scan did not find it any more. It stays for a while: a copy may have been on its way.
  lost_at timestamptz,
  -- found only in what the holder may replace: the arguments of a schedule, a heartbeat
  is_mutable boolean NOT NULL DEFAULT false,
  digest bytea NOT NULL CHECK (length(digest) = 32),
  -- the blob's, from the key in the claim; '' where only a digest was found: that holds in every namespace
  namespace text COLLATE "C" NOT NULL,
  PRIMARY KEY (holder_id, digest, namespace),
  CHECK (is_mutable OR lost_at IS NULL)
);

CREATE INDEX edge_digest ON edge (digest, namespace);
CREATE INDEX edge_lost ON edge (lost_at) WHERE lost_at IS NOT NULL;

-- What people keep, whoever refers to it. The store has the same in `.lps/pins/{id}`, written before the row is.
CREATE TABLE pin (
  id text COLLATE "C" PRIMARY KEY,
  namespace text COLLATE "C" NOT NULL,
  -- of a blob, or the beginning of keys; that ends with "/"
  key text COLLATE "C" NOT NULL,
  is_prefix boolean NOT NULL GENERATED ALWAYS AS (right(key, 1) = '/') STORED,
  owner text NOT NULL,
  reason text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz
);

CREATE INDEX pin_key ON pin (namespace, key);

-- Stops the collection until a person lets go of it; kept behind that, to be asked about.
CREATE TABLE brake (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL,
  -- of blobs; '' for all
  namespace text COLLATE "C" NOT NULL,
  reason text NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  released_at timestamptz,
  released_by text
);

CREATE UNIQUE INDEX brake_set ON brake (kind, namespace) WHERE released_at IS NULL;

-- One row: how many rounds there were. The store has the same number: a database that was restored has a smaller one.
CREATE TABLE collection (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  rounds bigint NOT NULL DEFAULT 0,
  -- when the last one began
  began_at timestamptz,
  -- when a person asked for one before its time
  requested_at timestamptz
);
INSERT INTO collection DEFAULT VALUES;

-- Quarantined blobs that somebody read or asked about: a holder was missed. Uploads that meet one are not here.
CREATE TABLE revival (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  blob_id bigint NOT NULL,
  generation integer NOT NULL
);

CREATE INDEX revival_at ON revival (at);

-- The sweeper walks a namespace's blobs, or its quarantined ones, in the order of their ids, which is about the order in
-- which they lie on disk. touched_at is looked at on the way and stays out of every index (0001, HOT); what is in these
-- indexes does not change with a touch of a live row. The other one of quarantined rows helped nobody.
CREATE INDEX blob_walk ON blob (namespace, id);
DROP INDEX blob_quarantined;
CREATE INDEX blob_quarantined ON blob (namespace, id) WHERE quarantined_at IS NOT NULL;

-- Blobs and bytes by state, which no request could count. Every change of a row adds a row here: uploads then never wait
-- for each other, as they would for one counter. Whoever reads the sums folds the changes into them. `uploading` is not
-- counted (the leases are), so an upload makes one change.
CREATE TABLE blob_sum (
  namespace text COLLATE "C" NOT NULL,
  state blob_state NOT NULL,
  blobs bigint NOT NULL,
  bytes numeric NOT NULL,
  PRIMARY KEY (namespace, state)
) WITH (fillfactor = 50);

CREATE TABLE blob_change (
  blobs smallint NOT NULL,
  bytes bigint NOT NULL,
  state blob_state NOT NULL,
  namespace text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- A trigger and not the statements, so that no transition can forget it.
CREATE FUNCTION note_blob_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF TG_OP <> 'INSERT' AND OLD.state <> 'uploading' THEN
    INSERT INTO blob_change (blobs, bytes, state, namespace) VALUES (-1, -OLD.size, OLD.state, OLD.namespace);
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.state <> 'uploading' THEN
    INSERT INTO blob_change (blobs, bytes, state, namespace) VALUES (1, NEW.size, NEW.state, NEW.namespace);
  END IF;
  RETURN NULL;
END
$$;

CREATE TRIGGER blob_made AFTER INSERT ON blob FOR EACH ROW WHEN (NEW.state <> 'uploading')
  EXECUTE FUNCTION note_blob_change();
CREATE TRIGGER blob_changed AFTER UPDATE OF state, size ON blob FOR EACH ROW
  WHEN ((NEW.state, NEW.size) IS DISTINCT FROM (OLD.state, OLD.size))
  EXECUTE FUNCTION note_blob_change();
CREATE TRIGGER blob_removed AFTER DELETE ON blob FOR EACH ROW WHEN (OLD.state <> 'uploading')
  EXECUTE FUNCTION note_blob_change();

-- nobody can write from here on until this is done: making a trigger has locked the table
INSERT INTO blob_sum (namespace, state, blobs, bytes)
SELECT namespace, state, count(*), sum(size) FROM blob WHERE state <> 'uploading' GROUP BY namespace, state;
