-- The processes that share this catalog, and which of them leads.

-- One row a life of a process' durable work. An executor id is never used again: once `gone_at` is set, whoever had it
-- takes another one, so its unfinished work may be taken over by anyone, at any time, as often as they like.
CREATE TABLE replica (
  executor_id text COLLATE "C" PRIMARY KEY,
  -- of its workflows: work goes on only in a process of the same one
  application_version text NOT NULL,
  service_version text NOT NULL,
  host text NOT NULL,
  pid integer NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- the last sign of life
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- when it said goodbye, or was silent for too long
  gone_at timestamptz
);

-- One row. The leader is who holds a session's advisory lock; each new one counts `epoch` up. What a leader decides, it
-- decides in a transaction that holds this row's lock and finds its own epoch in it.
CREATE TABLE leader (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch bigint NOT NULL DEFAULT 0,
  executor_id text COLLATE "C",
  since timestamptz
);
INSERT INTO leader DEFAULT VALUES;
