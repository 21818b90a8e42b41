-- Every definition as one text, hashed as a multiset for each kind: kind, number, sums of both halves of the MD5.
-- Nothing that a restore without owners and rights would change: no owner, right, comment, identifier, position.
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
definitions (kind, text) AS (
    SELECT 'schema', s.nspname::text FROM spaces AS s
    UNION ALL
    SELECT 'extension', ROW(e.extname, n.nspname)::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    UNION ALL
    SELECT 'relation', ROW(r.label, r.relkind, r.relpersistence, r.reloptions, r.relrowsecurity, r.relforcerowsecurity,
        r.relreplident, CASE r.relkind WHEN 'p' THEN pg_get_partkeydef(r.oid) END, pg_get_expr(r.relpartbound, r.oid),
        (SELECT array_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits AS i WHERE i.inhrelid = r.oid))::text
    FROM relations AS r
    UNION ALL
    SELECT 'column', ROW(r.label, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
        pg_get_expr(d.adbin, d.adrelid),
        CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END)::text
    FROM relations AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE r.relkind <> 'S'
    UNION ALL
    SELECT 'constraint', ROW(r.label, c.conname, pg_get_constraintdef(c.oid))::text
    FROM pg_constraint AS c JOIN relations AS r ON r.oid = c.conrelid
    UNION ALL
    SELECT 'constraint', ROW(t.label, c.conname, pg_get_constraintdef(c.oid))::text
    FROM pg_constraint AS c JOIN types AS t ON t.oid = c.contypid
    UNION ALL
    SELECT 'index', ROW(pg_get_indexdef(i.indexrelid), i.indisclustered, i.indisreplident)::text
    FROM pg_index AS i JOIN relations AS r ON r.oid = i.indrelid
    UNION ALL
    SELECT 'trigger', ROW(pg_get_triggerdef(t.oid), t.tgenabled)::text
    FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'rule', ROW(pg_get_ruledef(w.oid), w.ev_enabled)::text
    FROM pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 'view', ROW(r.label, pg_get_viewdef(r.oid))::text FROM relations AS r WHERE r.relkind IN ('v', 'm')
    UNION ALL
    SELECT 'policy', ROW(r.label, p.polname, p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
        pg_get_expr(p.polwithcheck, p.polrelid))::text
    FROM pg_policy AS p JOIN relations AS r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'sequence', ROW(r.label, format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
        q.seqcycle, (SELECT ROW(d.refobjid::regclass::text, a.attname, d.deptype)::text FROM pg_depend AS d
            JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                AND d.deptype IN ('a', 'i')))::text
    FROM pg_sequence AS q JOIN relations AS r ON r.oid = q.seqrelid
    UNION ALL
    SELECT 'statistics', pg_get_statisticsobjdef(x.oid) FROM pg_statistic_ext AS x JOIN spaces AS s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'function', pg_get_functiondef(f.oid) FROM functions AS f WHERE f.prokind <> 'a'
    UNION ALL
    SELECT 'aggregate', ROW(f.label, g.aggkind, g.aggtransfn::text, g.aggfinalfn::text, g.aggcombinefn::text,
        format_type(g.aggtranstype, NULL), g.agginitval, g.aggsortop::regoperator::text)::text
    FROM functions AS f JOIN pg_aggregate AS g ON g.aggfnoid = f.oid
    UNION ALL
    SELECT 'enum', ROW(t.label, (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e
        WHERE e.enumtypid = t.oid))::text
    FROM types AS t WHERE t.typtype = 'e'
    UNION ALL
    SELECT 'domain', ROW(t.label, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
        t.typcollation::regcollation::text)::text
    FROM types AS t WHERE t.typtype = 'd'
    UNION ALL
    SELECT 'range', ROW(t.label, format_type(g.rngsubtype, NULL), g.rngsubdiff::text, g.rngcanonical::text)::text
    FROM types AS t JOIN pg_range AS g ON g.rngtypid = t.oid
    UNION ALL
    SELECT 'event trigger', ROW(v.evtname, v.evtevent, v.evtfoid::regprocedure::text, v.evtenabled, v.evttags)::text
    FROM pg_event_trigger AS v
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = v.oid)
)
SELECT kind, count(*)::text, coalesce(sum(('x' || left(h, 16))::bit(64)::int8), 0)::text,
    coalesce(sum(('x' || right(h, 16))::bit(64)::int8), 0)::text
FROM (SELECT d.kind, md5(d.text) AS h FROM definitions AS d OFFSET 0) AS hashed
GROUP BY kind
ORDER BY kind COLLATE "C"
