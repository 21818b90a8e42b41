-- The objects of the database itself, without those of PostgreSQL and of extensions. This is the beginning of each statement that lists
-- such objects as texts; `hashed.sql` is the end.
WITH
members AS (
    SELECT d.classid, d.objid FROM pg_depend AS d WHERE d.deptype = 'e'
),
spaces AS (
    SELECT n.oid, n.nspname FROM pg_namespace AS n
    WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
),
relations AS (
    SELECT c.*, c.oid::regclass::text AS label FROM pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
        AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
),
types AS (
    SELECT t.*, format_type(t.oid, NULL) AS label FROM pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
),
functions AS (
    SELECT p.*, p.oid::regprocedure::text AS label FROM pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
),
