-- Comments on all objects except extensions, which bring their own comments, and objects whose comments are not dumped: subscriptions,
-- triggers and constraints that a partition or child table inherits, row types of tables, the rules of views, and invalid indexes.
found (kind, text) AS (
    SELECT 'comment', ROW(i.type, i.identity, c.description)::text
    FROM pg_description AS c CROSS JOIN LATERAL pg_identify_object(c.classoid, c.objoid, c.objsubid) AS i
    -- Objects of PostgreSQL itself have lower identifiers.
    WHERE c.objoid >= 16384 AND c.classoid NOT IN ('pg_extension'::regclass, 'pg_subscription'::regclass)
        AND i.identity !~ '^"?pg_(toast_)?temp_'
        AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = c.classoid AND m.objid = c.objoid)
        AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE c.classoid = 'pg_trigger'::regclass AND t.oid = c.objoid AND t.tgparentid <> 0)
        AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE c.classoid = 'pg_constraint'::regclass AND k.oid = c.objoid
            AND (k.conparentid <> 0 OR (k.contype = 'c' AND k.conrelid <> 0 AND NOT k.conislocal)))
        AND NOT EXISTS (SELECT FROM pg_type AS t JOIN pg_class AS r ON r.oid = t.typrelid
            WHERE c.classoid = 'pg_type'::regclass AND t.oid = c.objoid AND r.relkind <> 'c')
        AND NOT EXISTS (SELECT FROM pg_rewrite AS w
            WHERE c.classoid = 'pg_rewrite'::regclass AND w.oid = c.objoid AND w.rulename = '_RETURN')
        AND NOT EXISTS (SELECT FROM pg_index AS x
            WHERE c.classoid = 'pg_class'::regclass AND x.indexrelid = c.objoid AND NOT x.indisvalid)
)
