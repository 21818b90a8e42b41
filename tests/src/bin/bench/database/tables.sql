CREATE TABLE llx_facture (
    rowid serial PRIMARY KEY, ref varchar(30) NOT NULL UNIQUE, entity integer DEFAULT 1, fk_soc integer NOT NULL, datef date,
    date_valid date, tms timestamp, paye smallint DEFAULT 0, total_ht double precision, total_tva double precision,
    total_ttc double precision, fk_statut smallint, note_private text, note_public text, model_pdf varchar(255), extraparams varchar(255));
CREATE TABLE llx_facturedet (
    rowid serial PRIMARY KEY, fk_facture integer NOT NULL, label varchar(255), description text, tva_tx double precision, qty double precision,
    subprice double precision, total_ht double precision, total_ttc double precision, product_type integer, rang integer);
CREATE INDEX ON llx_facturedet (fk_facture);
CREATE TABLE llx_accounting_bookkeeping (
    rowid bigserial PRIMARY KEY, entity integer, piece_num integer, doc_date date, doc_type varchar(30), doc_ref varchar(300),
    fk_doc integer, numero_compte varchar(32), label_compte varchar(255), debit numeric(24,8), credit numeric(24,8), montant numeric(24,8),
    sens varchar(1), code_journal varchar(32), journal_label varchar(255), tms timestamp);
CREATE INDEX ON llx_accounting_bookkeeping (doc_date);
CREATE TABLE llx_blockedlog (
    rowid serial PRIMARY KEY, entity integer, date_creation timestamp, action varchar(50), amounts numeric(24,8), signature varchar(100),
    element varchar(50), fk_object integer, ref_object varchar(255), date_object timestamp, user_fullname varchar(255), object_data text);
CREATE TABLE llx_actioncomm (
    id serial PRIMARY KEY, ref varchar(30), code varchar(50), datep timestamp, label varchar(255), note text, fk_soc integer, fk_element integer,
    elementtype varchar(255), tms timestamp);
CREATE TABLE llx_ecm_files (
    rowid serial PRIMARY KEY, ref varchar(128), label varchar(128), filepath varchar(255), filename varchar(255), src_object_type varchar(64),
    src_object_id integer, fullpath_orig varchar(750), gen_or_uploaded varchar(12), date_c timestamp, tms timestamp);
CREATE INDEX ON llx_ecm_files (filepath, filename);
