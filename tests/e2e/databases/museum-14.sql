-- What PostgreSQL 14 and 15 added, beside `museum.sql`.
CREATE TABLE newer (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    spans nummultirange DEFAULT '{[1,2),[5,6)}'::nummultirange,
    packed text COMPRESSION pglz,
    a integer,
    b integer,
    UNIQUE NULLS NOT DISTINCT (a, b)
);
CREATE STATISTICS of_expressions ON (a + b), (a * b) FROM newer;
CREATE FUNCTION atomic(x integer) RETURNS TABLE (id integer, sum integer) LANGUAGE sql
    BEGIN ATOMIC SELECT n.id, n.a + x FROM newer AS n WHERE n.a IN (1, 2) ORDER BY 1; END;
CREATE PROCEDURE doubling(IN x integer, OUT y integer) LANGUAGE sql BEGIN ATOMIC SELECT x * 2; END;
CREATE VIEW invoked WITH (security_invoker, security_barrier = false) AS SELECT id, (atomic(id)).sum FROM newer;
CREATE TABLE tree (id integer PRIMARY KEY, above integer, left_in integer, FOREIGN KEY (above, left_in) REFERENCES newer (a, b) ON DELETE SET NULL (above));
INSERT INTO newer (packed, a, b) SELECT repeat('x', 3000), n, NULLIF(n, 3) FROM generate_series(1, 5) AS n;
