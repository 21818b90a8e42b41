-- Hashes the texts of each kind as a multiset: kind, count, and the sums of two quarters of the SHA-256 hashes. Texts are hashed in the
-- database's own encoding, so bytes that are invalid in every encoding do not cause an error.
SELECT kind, count(*)::text, coalesce(sum(h::bit(64)::int8), 0)::text, coalesce(sum((h << 64)::bit(64)::int8), 0)::text
FROM (SELECT f.kind, ('x' || encode(sha256(convert_to(f.text, getdatabaseencoding())), 'hex'))::bit(128) AS h FROM found AS f OFFSET 0) AS hashed
GROUP BY kind
ORDER BY kind COLLATE "C"
