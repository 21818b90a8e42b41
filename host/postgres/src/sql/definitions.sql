-- All expressions, as PostgreSQL prints them. After a dump and restore, it prints some of them differently: `IN` becomes `ANY` of an
-- array, with the casts in other places. So this shows whether somebody changed a definition, but not whether the restored database
-- equals the saved one.
found (kind, text) AS (
    SELECT 'column', ROW(r.label, a.attname, pg_get_expr(d.adbin, d.adrelid))::text
    FROM pg_attrdef AS d JOIN relations AS r ON r.oid = d.adrelid JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL
    SELECT 'partition', ROW(r.label, CASE r.relkind WHEN 'p' THEN pg_get_partkeydef(r.oid) END, pg_get_expr(r.relpartbound, r.oid))::text
    FROM relations AS r WHERE r.relkind = 'p' OR r.relispartition
    UNION ALL
    SELECT 'constraint', ROW(r.label, t.label, c.conname, pg_get_constraintdef(c.oid))::text
    FROM pg_constraint AS c LEFT JOIN relations AS r ON r.oid = c.conrelid LEFT JOIN types AS t ON t.oid = c.contypid
    WHERE (r.oid IS NOT NULL OR t.oid IS NOT NULL) AND c.conparentid = 0
    UNION ALL
    SELECT 'index', pg_get_indexdef(i.indexrelid)
    FROM pg_index AS i JOIN relations AS r ON r.oid = i.indrelid WHERE i.indisvalid OR r.relkind = 'p'
    UNION ALL
    SELECT 'trigger', pg_get_triggerdef(t.oid)
    FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'rule', pg_get_ruledef(w.oid)
    FROM pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 'view', ROW(r.label, pg_get_viewdef(r.oid))::text FROM relations AS r WHERE r.relkind IN ('v', 'm')
    UNION ALL
    SELECT 'policy', ROW(r.label, p.polname, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))::text
    FROM pg_policy AS p JOIN relations AS r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'statistics', pg_get_statisticsobjdef(x.oid) FROM pg_statistic_ext AS x JOIN spaces AS s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'function', pg_get_functiondef(f.oid) FROM functions AS f WHERE f.prokind <> 'a'
    UNION ALL
    SELECT 'domain', ROW(t.label, t.typdefault)::text FROM types AS t WHERE t.typtype = 'd'
    UNION ALL
    SELECT 'published rows', ROW(p.pubname, p.schemaname, p.tablename, to_jsonb(p) ->> 'rowfilter')::text
    FROM pg_publication_tables AS p
)
