-- Who may still serve what was deleted or taken down (docs/decisions/0006-read-leases.md).

-- One row: the number of the last event. Whoever adds events holds it until the end of his transaction, so numbers are in the
-- order of the commits; whoever grants a lease shares it, so a lease either is seen by those who wait for leases to end, or
-- knows of the event.
CREATE TABLE event_counter (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  last bigint NOT NULL DEFAULT 0,
  -- events up to this one are forgotten
  forgotten bigint NOT NULL DEFAULT 0
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
  started_at timestamptz NOT NULL DEFAULT now(),
  renewed_at timestamptz NOT NULL DEFAULT now(),
  -- until then it may serve what it keeps
  lease_until timestamptz NOT NULL,
  -- all events up to this one have been applied
  cursor bigint NOT NULL
) WITH (fillfactor = 50);
