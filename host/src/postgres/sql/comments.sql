-- Comments and security labels of everything but extensions, whose comments come with them.
found (kind, text) AS (
    SELECT 'comment', ROW(i.type, i.identity, c.description)::text
    FROM pg_description AS c CROSS JOIN LATERAL pg_identify_object(c.classoid, c.objoid, c.objsubid) AS i
    -- What PostgreSQL itself comments on has identifiers below.
    WHERE c.objoid >= 16384 AND c.classoid <> 'pg_extension'::regclass
        AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = c.classoid AND m.objid = c.objoid)
    UNION ALL
    SELECT 'security label', ROW(i.type, i.identity, l.provider, l.label)::text
    FROM pg_seclabel AS l CROSS JOIN LATERAL pg_identify_object(l.classoid, l.objoid, l.objsubid) AS i
)
