-- All objects, by the attributes that stay the same after a dump and restore. Expressions are listed only by their presence, because
-- PostgreSQL may print them differently after they are parsed again. Owners, rights, comments, identifiers and positions are left out, and
-- so is everything that a dump does not contain: invalid indexes, and objects that a partition inherits from its parent.
found (kind, text) AS (
    -- Every new database has the schema `public`, even if it was dropped in the original.
    SELECT 'schema', s.nspname::text FROM spaces AS s WHERE s.nspname <> 'public'
    UNION ALL
    SELECT 'extension', ROW(e.extname, n.nspname)::text FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
    UNION ALL
    SELECT 'relation', ROW(r.label, r.relkind, r.relpersistence, r.relrowsecurity, r.relforcerowsecurity,
        -- If the index was dropped, the replica identity is restored as the default.
        CASE WHEN r.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = r.oid AND i.indisreplident)
            THEN 'd' ELSE r.relreplident END,
        r.relispopulated, r.relispartition, r.reloftype::regtype::text, (SELECT m.amname FROM pg_am AS m WHERE m.oid = r.relam),
        (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(r.reloptions) AS o),
        (SELECT ROW(p.partstrat, p.partdefid::regclass::text, (SELECT array_agg(a.attname ORDER BY k.place)
            FROM unnest(p.partattrs::int2[]) WITH ORDINALITY AS k (attnum, place)
            LEFT JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.attnum))::text
            FROM pg_partitioned_table AS p WHERE p.partrelid = r.oid),
        (SELECT array_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits AS i WHERE i.inhrelid = r.oid))::text
    FROM relations AS r
    UNION ALL
    SELECT 'column', ROW(r.label, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
        a.atthasdef, CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END, to_jsonb(a) ->> 'attcompression',
        nullif(a.attstattarget, -1),
        -- Only options that a person sets. Minor versions store internal marks here (`pg_attver`), which a dump does not contain.
        (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(a.attoptions) AS o WHERE o ~ '^n_distinct'),
        (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(a.attfdwoptions) AS o),
        CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END)::text
    FROM relations AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE r.relkind <> 'S'
    UNION ALL
    SELECT 'constraint', ROW(r.label, t.label, c.conname, c.contype, c.condeferrable, c.condeferred, c.convalidated, c.connoinherit,
        to_jsonb(c) ->> 'conenforced', to_jsonb(c) ->> 'conperiod',
        -- A check constraint lists its columns in the order in which its expression was parsed.
        (SELECT array_agg(a.attname ORDER BY CASE c.contype WHEN 'c' THEN 0 ELSE k.place END, a.attname)
            FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, place)
            JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
        nullif(c.confrelid, 0)::regclass::text,
        (SELECT array_agg(a.attname ORDER BY k.place) FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, place)
            JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum),
        c.confupdtype, c.confdeltype, c.confmatchtype,
        (SELECT array_agg(o.oid::regoperator::text ORDER BY k.place) FROM unnest(c.conexclop) WITH ORDINALITY AS k (oid, place)
            JOIN pg_operator AS o ON o.oid = k.oid))::text
    FROM pg_constraint AS c LEFT JOIN relations AS r ON r.oid = c.conrelid LEFT JOIN types AS t ON t.oid = c.contypid
    WHERE (r.oid IS NOT NULL OR t.oid IS NOT NULL) AND c.conparentid = 0 AND c.contype NOT IN ('t', 'n')
    UNION ALL
    SELECT 'index', ROW(i.indexrelid::regclass::text, r.label, m.amname, i.indisunique, i.indisexclusion, i.indimmediate,
        i.indisclustered, i.indisreplident, to_jsonb(i) ->> 'indnullsnotdistinct', i.indnkeyatts, i.indpred IS NOT NULL,
        (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(c.reloptions) AS o),
        (SELECT array_agg(ROW(a.attname, p.opcname, s.nspname, x.place, i.indoption[x.place - 1],
                nullif(i.indcollation[x.place - 1], 0)::regcollation::text)::text ORDER BY x.place)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS x (attnum, place)
            LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = x.attnum AND x.attnum <> 0
            LEFT JOIN pg_opclass AS p ON p.oid = i.indclass[x.place - 1]
            LEFT JOIN pg_namespace AS s ON s.oid = p.opcnamespace))::text
    FROM pg_index AS i JOIN relations AS r ON r.oid = i.indrelid JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam
    WHERE i.indisvalid OR r.relkind = 'p'
    UNION ALL
    SELECT 'trigger', ROW(r.label, t.tgname, t.tgfoid::regprocedure::text, t.tgtype, t.tgenabled, t.tgdeferrable, t.tginitdeferred,
        nullif(t.tgconstrrelid, 0)::regclass::text, t.tgconstraint <> 0, t.tgqual IS NOT NULL, t.tgoldtable, t.tgnewtable,
        encode(t.tgargs, 'hex'), (SELECT array_agg(a.attname ORDER BY a.attname) FROM unnest(t.tgattr::int2[]) AS k (attnum)
            JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.attnum))::text
    FROM pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT 'rule', ROW(r.label, w.rulename, w.ev_type, w.is_instead, w.ev_enabled, w.ev_qual <> '<>')::text
    FROM pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 'policy', ROW(r.label, p.polname, p.polcmd, p.polpermissive, p.polqual IS NOT NULL, p.polwithcheck IS NOT NULL,
        (SELECT array_agg(n ORDER BY n COLLATE "C") FROM unnest(p.polroles) AS o
            CROSS JOIN LATERAL (SELECT CASE WHEN o = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(o)::text END) AS r (n)))::text
    FROM pg_policy AS p JOIN relations AS r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'sequence', ROW(r.label, format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
        q.seqcycle, (SELECT ROW(d.refobjid::regclass::text, a.attname, d.deptype)::text FROM pg_depend AS d
            JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                AND d.deptype IN ('a', 'i')))::text
    FROM pg_sequence AS q JOIN relations AS r ON r.oid = q.seqrelid
    UNION ALL
    SELECT 'statistics', ROW(s.nspname, x.stxname, x.stxrelid::regclass::text, (SELECT array_agg(k ORDER BY k) FROM unnest(x.stxkind) AS k),
        to_jsonb(x) ->> 'stxexprs' IS NOT NULL, nullif((to_jsonb(x) ->> 'stxstattarget')::int4, -1),
        (SELECT array_agg(a.attname ORDER BY a.attname) FROM unnest(x.stxkeys::int2[]) AS k (attnum)
            JOIN pg_attribute AS a ON a.attrelid = x.stxrelid AND a.attnum = k.attnum))::text
    FROM pg_statistic_ext AS x JOIN spaces AS s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'function', ROW(f.label, f.prokind, l.lanname, f.provolatile, f.prosecdef, f.proleakproof, f.proisstrict, f.proparallel,
        f.proretset, f.procost, f.prorows, pg_get_function_result(f.oid), f.pronargdefaults, f.proargnames, f.proargmodes::text[],
        f.provariadic::regtype::text, nullif(f.prosupport, 0)::regprocedure::text, f.prosrc, f.probin,
        (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(f.proconfig) AS o))::text
    FROM functions AS f JOIN pg_language AS l ON l.oid = f.prolang
    UNION ALL
    SELECT 'aggregate', ROW(f.label, g.aggkind, g.aggnumdirectargs, g.aggtransfn::text, g.aggfinalfn::text, g.aggcombinefn::text,
        g.aggserialfn::text, g.aggdeserialfn::text, g.aggmtransfn::text, g.aggminvtransfn::text, g.aggmfinalfn::text,
        format_type(g.aggtranstype, NULL), format_type(g.aggmtranstype, NULL), g.agginitval, g.aggminitval,
        nullif(g.aggsortop, 0)::regoperator::text)::text
    FROM functions AS f JOIN pg_aggregate AS g ON g.aggfnoid = f.oid
    UNION ALL
    SELECT 'enum', ROW(t.label, (SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e
        WHERE e.enumtypid = t.oid))::text
    FROM types AS t WHERE t.typtype = 'e'
    UNION ALL
    SELECT 'domain', ROW(t.label, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault IS NOT NULL,
        nullif(t.typcollation, 0)::regcollation::text)::text
    FROM types AS t WHERE t.typtype = 'd'
    UNION ALL
    SELECT 'range', ROW(t.label, format_type(g.rngsubtype, NULL), g.rngsubdiff::text, g.rngcanonical::text,
        nullif(g.rngcollation, 0)::regcollation::text, (to_jsonb(g) ->> 'rngmultitypid')::oid::regtype::text)::text
    FROM types AS t JOIN pg_range AS g ON g.rngtypid = t.oid
    UNION ALL
    SELECT 'type', ROW(t.label, t.typlen, t.typbyval, t.typalign, t.typstorage, t.typinput::text, t.typoutput::text)::text
    FROM types AS t WHERE t.typtype = 'b' AND t.typcategory <> 'A'
    UNION ALL
    SELECT 'collation', ROW(c.collname, s.nspname, c.collprovider, c.collencoding, c.collisdeterministic, c.collcollate, c.collctype,
        coalesce(to_jsonb(c) ->> 'colliculocale', to_jsonb(c) ->> 'colllocale'), to_jsonb(c) ->> 'collicurules')::text
    FROM pg_collation AS c JOIN spaces AS s ON s.oid = c.collnamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_collation'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'operator', ROW(o.oid::regoperator::text, o.oprcode::text, o.oprcom::regoperator::text, o.oprnegate::regoperator::text,
        o.oprrest::text, o.oprjoin::text, o.oprcanmerge, o.oprcanhash)::text
    FROM pg_operator AS o JOIN spaces AS s ON s.oid = o.oprnamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_operator'::regclass AND m.objid = o.oid)
    UNION ALL
    SELECT 'operator class', ROW(s.nspname, o.opcname, m.amname, o.opcintype::regtype::text, o.opcdefault)::text
    FROM pg_opclass AS o JOIN spaces AS s ON s.oid = o.opcnamespace JOIN pg_am AS m ON m.oid = o.opcmethod
    WHERE NOT EXISTS (SELECT FROM members AS e WHERE e.classid = 'pg_opclass'::regclass AND e.objid = o.oid)
    UNION ALL
    SELECT 'conversion', ROW(s.nspname, c.conname, c.conforencoding, c.contoencoding, c.conproc::text, c.condefault)::text
    FROM pg_conversion AS c JOIN spaces AS s ON s.oid = c.connamespace
    UNION ALL
    SELECT 'text search', ROW(s.nspname, c.cfgname, (SELECT ROW(n.nspname, p.prsname)::text FROM pg_ts_parser AS p JOIN pg_namespace AS n
        ON n.oid = p.prsnamespace WHERE p.oid = c.cfgparser), (SELECT array_agg(ROW(m.maptokentype, m.mapdict::regdictionary::text)::text
        ORDER BY m.maptokentype, m.mapseqno) FROM pg_ts_config_map AS m WHERE m.mapcfg = c.oid))::text
    FROM pg_ts_config AS c JOIN spaces AS s ON s.oid = c.cfgnamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_ts_config'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'text search', ROW(s.nspname, d.dictname, (SELECT ROW(n.nspname, t.tmplname)::text FROM pg_ts_template AS t JOIN pg_namespace AS n
        ON n.oid = t.tmplnamespace WHERE t.oid = d.dicttemplate), d.dictinitoption)::text
    FROM pg_ts_dict AS d JOIN spaces AS s ON s.oid = d.dictnamespace
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_ts_dict'::regclass AND m.objid = d.oid)
    UNION ALL
    SELECT 'cast', ROW(c.castsource::regtype::text, c.casttarget::regtype::text, nullif(c.castfunc, 0)::regprocedure::text, c.castcontext,
        c.castmethod)::text
    FROM pg_cast AS c
    -- Objects of PostgreSQL itself have lower identifiers.
    WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_cast'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'foreign data wrapper', ROW(w.fdwname, nullif(w.fdwhandler, 0)::regprocedure::text,
        nullif(w.fdwvalidator, 0)::regprocedure::text, (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(w.fdwoptions) AS o))::text
    FROM pg_foreign_data_wrapper AS w
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_foreign_data_wrapper'::regclass AND m.objid = w.oid)
    UNION ALL
    SELECT 'foreign server', ROW(v.srvname, v.srvtype, v.srvversion, w.fdwname, (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(v.srvoptions) AS o))::text
    FROM pg_foreign_server AS v JOIN pg_foreign_data_wrapper AS w ON w.oid = v.srvfdw
    UNION ALL
    SELECT 'foreign table', ROW(r.label, v.srvname, (SELECT array_agg(o ORDER BY o COLLATE "C") FROM unnest(f.ftoptions) AS o))::text
    FROM pg_foreign_table AS f JOIN relations AS r ON r.oid = f.ftrelid JOIN pg_foreign_server AS v ON v.oid = f.ftserver
    UNION ALL
    SELECT 'user mapping', ROW(u.srvname, u.usename)::text FROM pg_user_mappings AS u
    UNION ALL
    SELECT 'event trigger', ROW(v.evtname, v.evtevent, v.evtfoid::regprocedure::text, v.evtenabled, v.evttags)::text
    FROM pg_event_trigger AS v
    WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_event_trigger'::regclass AND m.objid = v.oid)
    UNION ALL
    SELECT 'publication', ROW(p.pubname, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot)::text
    FROM pg_publication AS p
    UNION ALL
    SELECT 'published table', ROW(p.pubname, p.schemaname, p.tablename)::text FROM pg_publication_tables AS p
)
