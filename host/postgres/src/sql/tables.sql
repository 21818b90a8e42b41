-- Ordinary tables with their columns: schema, name, bytes, column names, column types, and base types (with domains resolved).
-- Tables of extensions are listed only if pg_dump dumps their rows.
WITH RECURSIVE base (id, name, below) AS (
    SELECT t.oid, t.typname::text, t.typbasetype FROM pg_type AS t
    UNION ALL
    SELECT b.id, t.typname::text, t.typbasetype FROM base AS b JOIN pg_type AS t ON t.oid = b.below
)
SELECT n.nspname::text, c.relname::text, coalesce(pg_total_relation_size(c.oid), 0), a.names, a.types, a.bases
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
        coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum), '{}') AS types,
        coalesce(array_agg(b.name ORDER BY a.attnum), '{}') AS bases
    FROM pg_attribute AS a JOIN base AS b ON b.id = a.atttypid AND b.below = 0
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS a
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    -- An unlogged table cannot be read on a standby, and pg_dump leaves out its rows.
    AND NOT (c.relpersistence = 'u' AND pg_is_in_recovery())
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    AND NOT EXISTS (
        SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
            AND d.refclassid = 'pg_extension'::regclass AND NOT c.oid = ANY (coalesce(e.extconfig, '{}'))
    )
ORDER BY n.nspname, c.relname
