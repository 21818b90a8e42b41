-- All large objects, hashed chunk by chunk: number, total size, and the sums of the hashes, as in `hashed.sql`. A chunk is read into
-- memory at once.
WITH RECURSIVE chunks (id, place, bytes, hash) AS (
    SELECT m.oid, 0::int8, length(c.chunk), encode(sha256(c.chunk), 'hex')
    FROM pg_largeobject_metadata AS m CROSS JOIN LATERAL (SELECT lo_get(m.oid, 0, 1048576) AS chunk OFFSET 0) AS c
    UNION ALL
    SELECT k.id, k.place + 1048576, length(c.chunk), encode(sha256(c.chunk), 'hex')
    FROM chunks AS k CROSS JOIN LATERAL (SELECT lo_get(k.id, k.place + 1048576, 1048576) AS chunk OFFSET 0) AS c
    WHERE k.bytes = 1048576
)
SELECT count(DISTINCT id), coalesce(sum(bytes), 0)::int8, coalesce(sum(h::bit(64)::int8), 0)::text,
    coalesce(sum((h << 64)::bit(64)::int8), 0)::text
FROM (SELECT id, bytes, ('x' || encode(sha256(convert_to(ROW(id, place, bytes, hash)::text, 'UTF8')), 'hex'))::bit(128) AS h FROM chunks OFFSET 0)
    AS hashed
