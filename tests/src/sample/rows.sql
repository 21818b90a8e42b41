-- Rows of half a year. Every value is computed from a row's number: no clock, no chance.
INSERT INTO llx_const (name, value, note, tms) VALUES
    ('MAIN_INFO_SOCIETE_NOM', 'Atelier Générique', 'company identity', '2026-01-01'),
    ('MAIN_INFO_SIREN', '123456789', '', '2026-01-01'),
    ('MAIN_VERSION_LAST_INSTALL', '23.0.0', '', '2026-01-01'),
    ('FACTURE_ADDON', 'mod_facture_terre', 'numbering', '2026-01-01'),
    ('FACTURE_TERRE_MASK_INVOICE', 'FA{yy}{mm}-{0000}', 'numbering', '2026-01-01'),
    ('SOCIETE_FISCAL_MONTH_START', '1', '', '2026-01-01'),
    ('BLOCKEDLOG_ENTITY_FINGERPRINT', 'd1c1f6c0b2', 'anti-fraud chain', '2026-01-01'),
    ('MAIN_FEATURES_LEVEL', '0', '', '2026-01-01');

INSERT INTO llx_user (admin, login, pass_crypted, lastname, firstname, email, datec, tms, datelastlogin, iplastlogin)
SELECT CASE WHEN n = 1 THEN 1 ELSE 0 END, 'user' || n, md5('password ' || n), 'Nom-' || n, 'Zoé', 'user' || n || '@example.test',
       '2026-01-01', '2026-01-01', timestamp '2026-06-29 08:00' + n * interval '7 minutes', '192.0.2.' || n
FROM generate_series(1, 6) AS n;
INSERT INTO llx_rights_def (id, libelle, module, perms, subperms, type)
SELECT 10 + n, 'Permission ' || n, 'facture', 'lire', NULL, 'r' FROM generate_series(1, 20) AS n;
INSERT INTO llx_user_rights (fk_user, fk_id)
SELECT u, 10 + n FROM generate_series(1, 6) AS u, generate_series(1, 20) AS n WHERE n % u = 0;
INSERT INTO llx_oauth_token (service, token, tokenstring, expire_at, fk_user, datec, tms, lastaccess)
VALUES ('Google', md5('token'), '{"scope":"mail"}', '2026-06-30 09:00', 1, '2026-02-01', '2026-06-29 09:00', '2026-06-29 09:00');
INSERT INTO llx_session VALUES ('5f9c1e', 'dol_login|s:5:"user1";', '2026-06-29 09:30', 1, '192.0.2.1', 'Mozilla/5.0');
INSERT INTO llx_events (tms, type, dateevent, fk_user, description, ip)
SELECT at, 'USER_LOGIN', at, 1 + n % 6, 'UserLogged,user' || 1 + n % 6, '192.0.2.' || 1 + n % 6
FROM generate_series(1, 120) AS n, LATERAL (SELECT timestamp '2026-01-02 08:00' + n * interval '36 hours' AS at) AS t;
INSERT INTO llx_cronjob (tms, datec, jobtype, label, module_name, datelastrun, datenextrun, lastresult, frequency, nbrun)
SELECT '2026-06-29', '2026-01-01', 'method', 'Job ' || n, 'cron', '2026-06-29 02:00', '2026-06-30 02:00', '0', 1, 180
FROM generate_series(1, 8) AS n;

INSERT INTO llx_c_paiement (id, code, libelle, type) VALUES (2, 'VIR', 'Virement', 2), (4, 'LIQ', 'Espèces', 2), (6, 'CB', 'Carte', 2);
INSERT INTO llx_c_tva (fk_pays, taux, note) VALUES (1, 20, 'normal'), (1, 5.5, 'réduit'), (1, 0, 'exonéré');

INSERT INTO llx_societe (nom, code_client, address, zip, town, email, siren, capital, client, customer_rate, geopoint, datec, tms)
SELECT 'Société ' || n || CASE n % 5 WHEN 0 THEN ' & Cie «été»' ELSE '' END, 'CU2601-' || lpad(n::text, 5, '0'),
       n || E' rue de l''Église\nBâtiment ' || n % 3, lpad((1000 * n)::text, 5, '0'), 'Besançon', 'contact@client' || n || '.test',
       lpad((n * 7919)::text, 9, '0'), n * 1000.5, 1, n / 3.0, point(n, -n), '2026-01-01', '2026-01-01'
FROM generate_series(1, 24) AS n;
INSERT INTO llx_socpeople (datec, tms, fk_soc, lastname, firstname, poste, email, birthday)
SELECT '2026-01-01', '2026-01-01', n, 'Müller', 'Åsa', 'Comptabilité', 'p' || n || '@client.test', date '1980-02-28' + n
FROM generate_series(1, 24) AS n;
INSERT INTO llx_product (ref, datec, tms, label, description, price, price_ttc, tva_tx, stock)
SELECT 'P' || lpad(n::text, 3, '0'), '2026-01-01', '2026-01-01', 'Produit ' || n, repeat('détail ', n), n * 10, n * 12, 20, n / 2.0
FROM generate_series(1, 30) AS n;

INSERT INTO llx_propal (ref, fk_soc, tms, datec, datep, fk_statut, total_ht, total_tva, total_ttc)
SELECT 'PR26' || lpad(n::text, 4, '0'), 1 + n % 24, '2026-03-01', '2026-03-01', date '2026-01-05' + n, 2, n * 100, n * 20, n * 120
FROM generate_series(1, 20) AS n;
INSERT INTO llx_commande (ref, fk_soc, tms, date_creation, date_commande, fk_statut, total_ht, total_tva, total_ttc)
SELECT 'CO26' || lpad(n::text, 4, '0'), 1 + n % 24, '2026-03-02', '2026-03-02', date '2026-01-06' + n, 1, n * 100, n * 20, n * 120
FROM generate_series(1, 20) AS n;
INSERT INTO llx_commandedet (fk_commande, fk_product, description, tva_tx, qty, subprice, total_ht, rang)
SELECT o, 1 + (o + n) % 30, 'Ligne ' || n, 20, n, 10, n * 10, n FROM generate_series(1, 20) AS o, generate_series(1, 3) AS n;
INSERT INTO llx_facture (ref, fk_soc, datec, datef, date_valid, tms, paye, total_ht, total_tva, total_ttc, fk_statut,
    fk_user_author, date_lim_reglement, model_pdf, last_main_doc)
SELECT ref, 1 + n % 24, datef, datef, datef, datef, CASE WHEN n <= 40 THEN 1 ELSE 0 END, n * 150, n * 30, n * 180,
       CASE WHEN n <= 40 THEN 2 ELSE 1 END, 1 + n % 6, datef + 30, 'sponge', 'facture/' || ref || '/' || ref || '.pdf'
FROM generate_series(1, 60) AS n,
     LATERAL (SELECT 'FA26' || lpad((1 + (n - 1) / 10)::text, 2, '0') || '-' || lpad(n::text, 4, '0') AS ref,
                     make_date(2026, 1 + (n - 1) / 10, 1 + n % 28) AS datef) AS t;
INSERT INTO llx_facture_extrafields (tms, fk_object) SELECT '2026-06-01', n FROM generate_series(1, 60) AS n;
INSERT INTO llx_facturedet (fk_facture, fk_product, label, description, tva_tx, qty, subprice, total_ht, total_tva, total_ttc, rang)
SELECT f, 1 + (f * n) % 30, NULL, 'Prestation ' || n || E'\n\tdétail', 20, n, f * 25, f * n * 25, f * n * 5, f * n * 30, n
FROM generate_series(1, 60) AS f, generate_series(1, 3) AS n;

INSERT INTO llx_bank_account (datec, tms, ref, label, bank, iban_prefix, fk_pays, currency_code)
VALUES ('2026-01-01', '2026-01-01', 'BQ1', 'Compte courant', 'Banque', 'dolcrypt:AES-256-CTR:00:00', 1, 'EUR');
INSERT INTO llx_bank (datec, tms, datev, dateo, amount, label, fk_account, fk_type)
SELECT f.datef + 20, f.datef + 20, f.datef + 20, f.datef + 20, f.total_ttc, '(CustomerInvoicePayment)', 1, 'VIR'
FROM llx_facture AS f WHERE f.paye = 1 ORDER BY f.rowid;
INSERT INTO llx_bank_url (fk_bank, url_id, url, label, type)
SELECT n, n, '/compta/paiement/card.php?id=', '(paiement)', 'payment' FROM generate_series(1, 40) AS n;
INSERT INTO llx_paiement (ref, datec, tms, datep, amount, fk_paiement, fk_bank)
SELECT 'PAY2601-' || lpad(f.rowid::text, 4, '0'), f.datef + 20, f.datef + 20, f.datef + 20, f.total_ttc, 2, f.rowid
FROM llx_facture AS f WHERE f.paye = 1 ORDER BY f.rowid;
INSERT INTO llx_paiement_facture (fk_paiement, fk_facture, amount)
SELECT f.rowid, f.rowid, f.total_ttc FROM llx_facture AS f WHERE f.paye = 1 ORDER BY f.rowid;
INSERT INTO llx_accounting_account (tms, account_number, label)
SELECT '2026-01-01', number, label
FROM (VALUES ('411', 'Clients'), ('512', 'Banque'), ('706', 'Prestations'), ('44571', 'TVA collectée')) AS a (number, label);
INSERT INTO llx_accounting_bookkeeping (piece_num, doc_date, doc_type, doc_ref, fk_doc, fk_docdet, numero_compte, label_compte,
    debit, credit, fk_user_author, date_creation, tms, code_journal)
SELECT f.rowid, f.datef, 'customer_invoice', f.ref, f.rowid, 0, a.number, a.label,
       CASE a.number WHEN '411' THEN f.total_ttc ELSE 0 END,
       CASE a.number WHEN '706' THEN f.total_ht WHEN '44571' THEN f.total_tva ELSE 0 END, 1, f.datef, f.datef, 'VT'
FROM llx_facture AS f, (VALUES ('411', 'Clients'), ('706', 'Prestations'), ('44571', 'TVA collectée')) AS a (number, label)
ORDER BY f.rowid, a.number;
INSERT INTO llx_element_element (fk_source, sourcetype, fk_target, targettype)
SELECT n, 'commande', n, 'facture' FROM generate_series(1, 20) AS n;
INSERT INTO llx_actioncomm (ref, datep, code, datec, tms, fk_user_author, fk_soc, percent, label, fk_element, elementtype)
SELECT f.rowid::text, f.datef, 'AC_BILL_VALIDATE', f.datef, f.datef, 1, f.fk_soc, -1, 'Facture ' || f.ref || ' validée', f.rowid,
       'invoice' FROM llx_facture AS f ORDER BY f.rowid;
INSERT INTO llx_blockedlog (date_creation, action, amounts, ref_object, date_object, user_fullname, object_data, signature, element,
    fk_user, fk_object, tms)
SELECT f.datef, 'BILL_VALIDATE', f.total_ttc, f.ref, f.datef, 'Zoé Nom-1', '{"ref":"' || f.ref || '"}', md5(f.ref) || md5('chain'),
       'facture', 1, f.rowid, f.datef FROM llx_facture AS f ORDER BY f.rowid;
