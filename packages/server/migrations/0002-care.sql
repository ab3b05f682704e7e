-- What the hand tools need: how far a scrub has come, and whether the rows were made again without their history.

-- When rows were last taken from somewhere else than the uploads themselves: from the objects of the store (the catalog
-- was lost), or from an export. Touches, holders and marks of the time before are not known; the collection deletes
-- nothing until it has made full marks that began later.
ALTER TABLE catalog ADD COLUMN rebuilt_at timestamptz;

-- One row: the last pass over the stored objects, finished or not. Whoever goes on with it raises `epoch`; a process
-- that holds an older one can save nothing any more.
CREATE TABLE scrub (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch integer NOT NULL DEFAULT 1,
  started_at timestamptz NOT NULL DEFAULT now(),
  saved_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  -- all blobs up to this id are done
  after_id bigint NOT NULL DEFAULT 0,
  -- younger rows belong to the next pass: they were hashed when they came
  until_id bigint NOT NULL,
  blobs bigint NOT NULL DEFAULT 0,
  bytes bigint NOT NULL DEFAULT 0,
  damaged bigint NOT NULL DEFAULT 0,
  marked bigint NOT NULL DEFAULT 0,
  healed bigint NOT NULL DEFAULT 0,
  unreadable bigint NOT NULL DEFAULT 0,
  elapsed_ms bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
