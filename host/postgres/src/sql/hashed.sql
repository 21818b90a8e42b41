-- The texts as a multiset for each kind: kind, number, and the sums of two quarters of the SHA-256. Texts are hashed in the database's
-- own encoding, so that bytes which are no text in any encoding cannot stop it.
SELECT kind, count(*)::text, coalesce(sum(h::bit(64)::int8), 0)::text, coalesce(sum((h << 64)::bit(64)::int8), 0)::text
FROM (SELECT f.kind, ('x' || encode(sha256(convert_to(f.text, getdatabaseencoding())), 'hex'))::bit(128) AS h FROM found AS f OFFSET 0) AS hashed
GROUP BY kind
ORDER BY kind COLLATE "C"
