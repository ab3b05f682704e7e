-- The catalog: one row a blob, designed for 1e8 of them. Runs with the catalog's schema first on the search path.
--
-- Lock order, for every statement and transaction: blob rows (by id when there are several), then lease rows.
-- A lease is inserted only by who holds the lock of its blob's row; READ COMMITTED does not re-check other tables.

CREATE TYPE blob_state AS ENUM ('uploading', 'live', 'quarantined', 'deleting', 'gone', 'damaged', 'taken_down');

-- HOT: touched_at, state, size and generation are in no index and in no index predicate, so begin → commit and every
-- touch leave the indexes alone. The partial indexes are on times that are null for all but a few rows instead.
-- autovacuum: a fixed 20 % of 1e8 rows would come months too late.
CREATE TABLE blob (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  size bigint NOT NULL CHECK (size >= 0),
  created_at timestamptz NOT NULL DEFAULT now(),
  -- the last proof of use, by this database's clock; never goes back
  touched_at timestamptz NOT NULL DEFAULT now(),
  quarantined_at timestamptz,
  damaged_at timestamptz,
  -- counts up when a deleted blob comes back and when a damaged one is healed: what was decided about an older
  -- generation no longer holds
  generation integer NOT NULL CHECK (generation >= 1),
  state blob_state NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  -- '' for none ("common" in the key); a prefix is never empty
  prefix text COLLATE "C" NOT NULL,
  digest bytea NOT NULL CHECK (length(digest) = 32),
  metadata_digest bytea NOT NULL CHECK (length(metadata_digest) = 32),
  -- '' when the object lies at the key itself, else what stands behind the "~"
  physical_suffix text COLLATE "C" NOT NULL,
  -- serves lookups and, in this order of columns, the listing of a namespace
  CONSTRAINT blob_key UNIQUE (namespace, prefix, digest, metadata_digest),
  CHECK ((state = 'quarantined') = (quarantined_at IS NOT NULL)),
  CHECK ((state = 'damaged') = (damaged_at IS NOT NULL))
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX blob_quarantined ON blob (quarantined_at, id) WHERE quarantined_at IS NOT NULL;
CREATE INDEX blob_damaged ON blob (damaged_at, id) WHERE damaged_at IS NOT NULL;

-- The rights to upload, and with them all uploads under way: the sweeper reads this table, never blob. Small, and
-- rewritten all the time. An `uploading` row without a lease has no object; only later generations stay so, because
-- the first one's name must not be handed out again after it was deleted.
CREATE TABLE lease (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  blob_id bigint NOT NULL,
  size bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at timestamptz NOT NULL,
  generation integer NOT NULL,
  -- counts claims by sweepers and renewals: a sweeper settles only what it claimed
  epoch integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX lease_blob ON lease (blob_id);
CREATE INDEX lease_expiry ON lease (expires_at);

-- Objects to delete. Whoever sets `deleting` inserts the generation's physical key here in the same transaction, and
-- whoever deletes goes by this table alone: so an upload may start the next generation in the blob's row at once.
-- After the deletion of the object: the row here goes, and the blob becomes `gone` if it is still `deleting` with this
-- generation. A `gone` row stays: it keeps the name of its object from being used again.
CREATE TABLE retired_object (
  blob_id bigint NOT NULL,
  generation integer NOT NULL,
  physical_key text COLLATE "C" NOT NULL,
  size bigint NOT NULL,
  retired_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (blob_id, generation)
);

-- One row: which catalog this is. The store keeps the same id in `.lps/catalog`.
CREATE TABLE catalog (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO catalog DEFAULT VALUES;

-- Row caches hold live rows only and listen on channel {schema}_blob for the ids of those that are live no more.
-- A trigger and not the statements, so that no transition can forget it.
CREATE FUNCTION tell_row_caches() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_catalog.pg_notify(TG_TABLE_SCHEMA || '_blob', OLD.id::text);
  RETURN NULL;
END
$$;

CREATE TRIGGER blob_left_live AFTER UPDATE OF state, generation, physical_suffix ON blob FOR EACH ROW
  WHEN (OLD.state = 'live' AND (NEW.state, NEW.generation, NEW.physical_suffix) IS DISTINCT FROM (OLD.state, OLD.generation, OLD.physical_suffix))
  EXECUTE FUNCTION tell_row_caches();
CREATE TRIGGER live_blob_removed AFTER DELETE ON blob FOR EACH ROW
  WHEN (OLD.state = 'live')
  EXECUTE FUNCTION tell_row_caches();
