-- Owners, rights and security labels as texts, and the settings of the database itself.
found (kind, text) AS (
    SELECT 'schema', ROW(s.nspname, pg_get_userbyid(n.nspowner), (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(n.nspacl) AS a))::text
    FROM spaces AS s JOIN pg_namespace AS n ON n.oid = s.oid
    UNION ALL
    SELECT 'relation', ROW(r.label, pg_get_userbyid(r.relowner), (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(r.relacl) AS a))::text
    FROM relations AS r
    UNION ALL
    SELECT 'column', ROW(r.label, c.attname, (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(c.attacl) AS a))::text
    FROM relations AS r JOIN pg_attribute AS c ON c.attrelid = r.oid AND c.attacl IS NOT NULL AND NOT c.attisdropped
    UNION ALL
    SELECT 'function', ROW(f.label, pg_get_userbyid(f.proowner), (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(f.proacl) AS a))::text
    FROM functions AS f
    UNION ALL
    SELECT 'type', ROW(t.label, pg_get_userbyid(t.typowner), (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(t.typacl) AS a))::text
    FROM types AS t
    UNION ALL
    SELECT 'large object', ROW(l.oid, pg_get_userbyid(l.lomowner), (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(l.lomacl) AS a))::text
    FROM pg_largeobject_metadata AS l
    UNION ALL
    SELECT 'default', ROW(pg_get_userbyid(d.defaclrole), nullif(d.defaclnamespace, 0)::regnamespace::text, d.defaclobjtype,
        (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(d.defaclacl) AS a))::text
    FROM pg_default_acl AS d
    UNION ALL
    SELECT 'security label', ROW(i.type, i.identity, l.provider, l.label)::text
    FROM pg_seclabel AS l CROSS JOIN LATERAL pg_identify_object(l.classoid, l.objoid, l.objsubid) AS i
    UNION ALL
    SELECT 'security label', ROW('database', l.provider, l.label)::text
    FROM pg_shseclabel AS l JOIN pg_database AS b ON b.oid = l.objoid AND b.datname = current_database()
    WHERE l.classoid = 'pg_database'::regclass
    UNION ALL
    SELECT 'database', ROW(pg_get_userbyid(b.datdba), b.datconnlimit, shobj_description(b.oid, 'pg_database'),
        (SELECT array_agg(a::text ORDER BY a::text COLLATE "C") FROM unnest(b.datacl) AS a))::text
    FROM pg_database AS b WHERE b.datname = current_database()
    UNION ALL
    SELECT 'setting', ROW(r.rolname, s.setconfig)::text
    FROM pg_db_role_setting AS s JOIN pg_database AS b ON b.oid = s.setdatabase AND b.datname = current_database()
    LEFT JOIN pg_roles AS r ON r.oid = s.setrole
)
