/**
 * Every change of a blob's state, kept by a trigger of the test's own: what no look at the catalog from time to time would
 * show. A change that is rolled back leaves nothing.
 */
import type pg from 'pg';

/** In ms. */
export interface MoveTimes {
  readonly graceMs: number;
  readonly quarantineMs: number;
}

export async function watchMoves(pool: pg.Pool): Promise<void> {
  await pool.query(`
    CREATE TABLE public.blob_move (
      id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT clock_timestamp(), blob_id bigint NOT NULL,
      generation integer NOT NULL, was text NOT NULL, became text NOT NULL, unused_ms float8 NOT NULL, quarantined_ms float8);
    CREATE FUNCTION public.note_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO public.blob_move (blob_id, generation, was, became, unused_ms, quarantined_ms)
      VALUES (NEW.id, NEW.generation, OLD.state, NEW.state,
        extract(epoch FROM clock_timestamp() - OLD.touched_at) * 1000,
        extract(epoch FROM clock_timestamp() - OLD.quarantined_at) * 1000);
      RETURN NULL;
    END
    $$;
    CREATE TRIGGER blob_move AFTER UPDATE OF state ON lps.blob FOR EACH ROW
      WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION public.note_move()`);
}

/** How often each happened: `{ 'live quarantined': 3 }`. */
export async function movesOf(pool: pg.Pool): Promise<Record<string, number>> {
  const { rows } = await pool.query(
    `SELECT was || ' ' || became AS move, count(*)::int AS count FROM public.blob_move GROUP BY 1`,
  );
  return Object.fromEntries(rows.map(({ move, count }) => [move, count]));
}

const allowed = [
  'uploading live',
  'live quarantined',
  'quarantined live',
  'quarantined deleting',
  'deleting gone',
  // the next generation
  'deleting uploading',
  'gone uploading',
];

/** Moves that must not be: out of turn, too early, or for the second time. */
export async function wrongMoves(pool: pg.Pool, { graceMs, quarantineMs }: MoveTimes): Promise<string[]> {
  const { rows } = await pool.query(
    `SELECT was || ' ' || became AS move, blob_id, generation, unused_ms, quarantined_ms, times FROM (
       SELECT *, count(*) OVER (PARTITION BY blob_id, generation, became) AS times FROM public.blob_move) move
     WHERE NOT was || ' ' || became = ANY($1)
       OR (became = 'quarantined' AND unused_ms < $2)
       OR (became = 'deleting' AND (unused_ms < $2 OR quarantined_ms < $3))
       OR (became IN ('deleting', 'gone') AND times > 1)
     ORDER BY id`,
    [allowed, graceMs, quarantineMs],
  );
  return rows.map((row) => JSON.stringify(row));
}
