CREATE ROLE reader LOGIN PASSWORD 'canary-7f3a9c';

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN small AS positive CHECK (VALUE < 1000);
CREATE TYPE point3 AS (x float8, y float8, label text);

CREATE TABLE kinds (
    id serial PRIMARY KEY, t text, v varchar(20), c char(8), n numeric(12, 4), r real, f double precision, b bytea, j json,
    jb jsonb, a text[], d date, ts timestamp, tz timestamptz, iv interval, yes boolean, m mood, s small, p point3, u uuid,
    net inet, bits bit varying, money money, tsv tsvector, doubled numeric GENERATED ALWAYS AS (n * 2) STORED
);
INSERT INTO kinds (t, v, c, n, r, f, b, j, jb, a, d, ts, tz, iv, yes, m, s, p, u, net, bits, money, tsv) VALUES
    ('one', 'v', 'c', 1.5, 0.1, 0.1, '\x00ff', '{"a": 1}', '{"b": [1, null]}', '{x,NULL,"y,z"}', '2026-02-28', '2026-02-28 23:59:59.5',
     '2026-02-28 23:59:59+02', '1 mon 2 days', true, 'ok', 7, '(1,2,"a b")', '00000000-0000-0000-0000-000000000001', '10.0.0.1',
     B'101', '12.34', 'fat cat'),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    ('', '', '', 0, 'NaN', 'Infinity', '', '{}', '{}', '{}', 'infinity', '-infinity', 'infinity', '0', false, 'sad', 1, '(,,)', NULL, '::1',
     B'', '0', ''),
    ('quote '' " , ( ) \ % _ * é 漢', 'v', 'c', -1, 1e-30, 1e300, '\x5c', '[1]', '[1]', '{"\"","\\"}', '0044-03-15 BC', '1999-12-31',
     '2026-07-01 12:00', '-1 year', true, 'happy', 999, NULL, NULL, NULL, NULL, '-1', NULL);

CREATE TABLE "Mixed ""Case" ("A ""b" text, "select" text, "UPPER" int);
INSERT INTO "Mixed ""Case" VALUES ('x', 'y', 1), ('x', 'y', 1);

CREATE TABLE one_column (t text);
INSERT INTO one_column VALUES (NULL), ('');

CREATE TABLE no_column ();
INSERT INTO no_column DEFAULT VALUES;
INSERT INTO no_column DEFAULT VALUES;

CREATE TABLE no_row (id int, tms timestamp);

CREATE TABLE dropped (id int, gone text, kept text);
ALTER TABLE dropped DROP COLUMN gone;
INSERT INTO dropped VALUES (1, 'k');

CREATE TABLE parent (id int, tms timestamp);
CREATE TABLE child (own text) INHERITS (parent);
ALTER TABLE parent ADD COLUMN late text;
INSERT INTO parent VALUES (1, '2026-01-01 10:00', 'p');
INSERT INTO child (id, own, late) VALUES (2, 'o', 'c');

CREATE TABLE parts (id int, year int, tms timestamp) PARTITION BY RANGE (year);
CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM (2025) TO (2026);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM (2026) TO (2027);
INSERT INTO parts VALUES (1, 2025, '2025-05-05'), (2, 2026, '2026-06-06 06:06:06.123456');

CREATE UNLOGGED TABLE unlogged (id int);
INSERT INTO unlogged VALUES (1);

CREATE TABLE const (name text, value text, amount numeric);
INSERT INTO const VALUES ('COMPANY', 'x', 1), ('CRON_LAST', 'y', 2), ('CRON_NEXT', 'z', 3), ('PER%CENT', 'p', 4), ('PERCENT', 'q', 5),
    ('STAR*', 's', 6), (NULL, 'n', 7);

CREATE SCHEMA "Other";
CREATE TABLE "Other".kinds (id int);
INSERT INTO "Other".kinds VALUES (1);

DO $$
BEGIN
    EXECUTE 'CREATE TABLE wide (' || (SELECT string_agg(format('c%s int', i), ', ') FROM generate_series(1, 1600) AS i) || ')';
END $$;
INSERT INTO wide (c1, c1600) VALUES (1, 2);

CREATE SEQUENCE numbers START 5;
CREATE VIEW moods AS SELECT id, m FROM kinds WHERE m IN ('ok', 'happy') ORDER BY id;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS number FROM kinds;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tms = now(); RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION touch();
CREATE AGGREGATE together (text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE INDEX kinds_lower ON kinds (lower(t)) WHERE yes;
ALTER TABLE const ADD CONSTRAINT amount_positive CHECK (amount > 0 AND amount < 1000);
CREATE STATISTICS correlated ON name, value FROM const;
CREATE RULE quiet AS ON DELETE TO no_row DO INSTEAD NOTHING;

GRANT USAGE ON SCHEMA public, "Other" TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public, "Other" TO reader;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, "Other" TO reader;
