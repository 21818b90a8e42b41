INSERT INTO llx_facture (ref, fk_soc, datef, date_valid, tms, paye, total_ht, total_tva, total_ttc, fk_statut, note_public, model_pdf)
    SELECT format('FA%s-%s', $UNIT, i), i % 4000, date '2016-01-01' + i % 3650, date '2016-01-02' + i % 3650, timestamp '2026-01-01' + i * interval '1 s',
        1, i % 997 * 3.17, i % 997 * 0.634, i % 997 * 3.804, 2, 'Merci de votre confiance. ' || md5(i::text), 'sponge'
    FROM generate_series(1, 30000) AS i;
INSERT INTO llx_facturedet (fk_facture, label, description, tva_tx, qty, subprice, total_ht, total_ttc, product_type, rang)
    SELECT $UNIT * 30000 + i % 30000 + 1, 'Prestation ' || i % 700, 'Intervention sur site, dossier ' || md5((i * 7)::text), 20, i % 9 + 1, i % 311 * 1.1,
        i % 311 * 1.1 * (i % 9 + 1), i % 311 * 1.32 * (i % 9 + 1), 1, i % 5
    FROM generate_series(1, 90000) AS i;
INSERT INTO llx_accounting_bookkeeping (entity, piece_num, doc_date, doc_type, doc_ref, fk_doc, numero_compte, label_compte, debit, credit, montant,
        sens, code_journal, journal_label, tms)
    SELECT 1, $UNIT * 30000 + i / 3, date '2016-01-01' + i % 3650, 'customer_invoice', format('FA%s-%s', $UNIT, i / 3), i / 3,
        (array['411', '706', '44571'])[i % 3 + 1], (array['Clients', 'Prestations de services', 'TVA collectée'])[i % 3 + 1],
        CASE WHEN i % 3 = 0 THEN i % 997 * 3.804 ELSE 0 END, CASE WHEN i % 3 > 0 THEN i % 997 * 3.17 ELSE 0 END, i % 997 * 3.17,
        CASE WHEN i % 3 = 0 THEN 'D' ELSE 'C' END, 'VT', 'Journal des ventes', timestamp '2026-01-01' + i * interval '1 s'
    FROM generate_series(1, 90000) AS i;
INSERT INTO llx_blockedlog (entity, date_creation, action, amounts, signature, element, fk_object, ref_object, date_object, user_fullname, object_data)
    SELECT 1, timestamp '2016-01-01' + i * interval '1 h', 'BILL_VALIDATE', i % 997 * 3.804, md5(i::text) || md5((i + 1)::text), 'facture', i,
        format('FA%s-%s', $UNIT, i), timestamp '2016-01-01' + i * interval '1 h', 'Administrateur',
        format('{"ref":"FA%s-%s","date":%s,"total_ht":%s,"mycompany":{"name":"Exemple SARL","address":"1 rue de la Paix","zip":"75002","town":"Paris","idprof1":"%s"},"thirdparty":{"name":"Client %s","code_client":"CU%s","tva_intra":"FR%s"},"invoiceline":[{"desc":"%s","qty":1},{"desc":"%s","qty":2}]}',
            $UNIT, i, 1451606400 + i * 3600, i % 997 * 3.17, md5((i % 7)::text), i % 4000, i % 4000, md5((i % 4000)::text), md5((i * 3)::text), md5((i * 5)::text))
    FROM generate_series(1, 30000) AS i;
INSERT INTO llx_actioncomm (ref, code, datep, label, note, fk_soc, fk_element, elementtype, tms)
    SELECT i::text, 'AC_BILL_VALIDATE', timestamp '2016-01-01' + i * interval '1 h', 'Facture FA validée', 'Facture ' || md5(i::text) || ' validée par admin',
        i % 4000, i, 'invoice', timestamp '2016-01-01' + i * interval '1 h'
    FROM generate_series(1, 60000) AS i;
INSERT INTO llx_ecm_files (ref, label, filepath, filename, src_object_type, src_object_id, fullpath_orig, gen_or_uploaded, date_c, tms)
    SELECT md5(format('%s-%s', $UNIT, i)), md5(i::text), format('facture/FA%s-%s', $UNIT, i), format('FA%s-%s.pdf', $UNIT, i), 'facture', i, '', 'generated',
        timestamp '2016-01-01' + i * interval '1 h', timestamp '2016-01-01' + i * interval '1 h'
    FROM generate_series(1, 30000) AS i;
