-- A small database in the shape of Dolibarr's: its prefix, names of tables and columns, and its triggers; a fraction of
-- its tables and columns.
SET client_min_messages = warning;
SET TIME ZONE 'UTC';

CREATE FUNCTION update_modified_column_tms() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.tms := now(); RETURN NEW; END $$;

CREATE TABLE llx_const (
    rowid serial PRIMARY KEY, name varchar(180) NOT NULL, entity integer DEFAULT 1 NOT NULL, value text NOT NULL,
    type varchar(64) DEFAULT 'string', visible smallint DEFAULT 1 NOT NULL, note text, tms timestamp DEFAULT now() NOT NULL,
    UNIQUE (name, entity));
CREATE TABLE llx_user (
    rowid serial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, admin smallint DEFAULT 0, login varchar(50) NOT NULL UNIQUE,
    pass_crypted varchar(128), api_key varchar(128), lastname varchar(50), firstname varchar(50), email varchar(255),
    datec timestamp, tms timestamp DEFAULT now() NOT NULL, datelastlogin timestamp, datepreviouslogin timestamp,
    iplastlogin varchar(250), ippreviouslogin varchar(250), statut smallint DEFAULT 1);
CREATE TABLE llx_rights_def (
    id integer NOT NULL, entity integer DEFAULT 1 NOT NULL, libelle varchar(255), module varchar(64), perms varchar(50),
    subperms varchar(50), type varchar(1), PRIMARY KEY (id, entity));
CREATE TABLE llx_user_rights (
    rowid serial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL,
    fk_user integer NOT NULL REFERENCES llx_user (rowid), fk_id integer NOT NULL, UNIQUE (entity, fk_user, fk_id));
CREATE TABLE llx_oauth_token (
    rowid serial PRIMARY KEY, service varchar(36), token text, tokenstring text, expire_at timestamp, fk_user integer,
    datec timestamp, tms timestamp DEFAULT now() NOT NULL, entity integer DEFAULT 1, lastaccess timestamp,
    apicount_total bigint DEFAULT 0);
CREATE TABLE llx_session (
    session_id varchar(50) PRIMARY KEY, session_variable text, last_accessed timestamp NOT NULL, fk_user integer NOT NULL,
    remote_ip varchar(64), user_agent varchar(255));
CREATE TABLE llx_events (
    rowid serial PRIMARY KEY, tms timestamp DEFAULT now() NOT NULL, type varchar(32) NOT NULL,
    entity integer DEFAULT 1 NOT NULL, dateevent timestamp, fk_user integer, description varchar(250) NOT NULL,
    ip varchar(250) NOT NULL, user_agent varchar(255));
CREATE TABLE llx_cronjob (
    rowid serial PRIMARY KEY, tms timestamp DEFAULT now() NOT NULL, datec timestamp, jobtype varchar(10) NOT NULL,
    label varchar(255) NOT NULL, module_name varchar(255), datelastrun timestamp, datenextrun timestamp,
    datelastresult timestamp, lastresult text, lastoutput text, frequency integer DEFAULT 0 NOT NULL, nbrun integer,
    status integer DEFAULT 1 NOT NULL, processing integer DEFAULT 0 NOT NULL, pid integer, entity integer DEFAULT 0);

CREATE TABLE llx_c_paiement (
    id integer PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, code varchar(6) NOT NULL, libelle varchar(128), type smallint,
    active smallint DEFAULT 1 NOT NULL);
CREATE TABLE llx_c_tva (
    rowid serial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, fk_pays integer NOT NULL, code varchar(10) DEFAULT '',
    taux numeric NOT NULL, note varchar(128), active smallint DEFAULT 1 NOT NULL);

CREATE TABLE llx_societe (
    rowid serial PRIMARY KEY, nom varchar(128), entity integer DEFAULT 1 NOT NULL, code_client varchar(24),
    address varchar(255), zip varchar(25), town varchar(50), email varchar(128), siren varchar(128), tva_intra varchar(20),
    capital numeric(24,8), client smallint DEFAULT 0, fournisseur smallint DEFAULT 0, customer_rate real DEFAULT 0,
    geopoint point, note_private text, datec timestamp, tms timestamp DEFAULT now() NOT NULL, fk_user_creat integer);
CREATE TABLE llx_socpeople (
    rowid serial PRIMARY KEY, datec timestamp, tms timestamp DEFAULT now() NOT NULL,
    fk_soc integer REFERENCES llx_societe (rowid), entity integer DEFAULT 1 NOT NULL, lastname varchar(50),
    firstname varchar(50), poste varchar(255), email varchar(255), birthday date, statut smallint DEFAULT 1 NOT NULL);
CREATE TABLE llx_product (
    rowid serial PRIMARY KEY, ref varchar(128) NOT NULL, entity integer DEFAULT 1 NOT NULL, datec timestamp,
    tms timestamp DEFAULT now() NOT NULL, label varchar(255) NOT NULL, description text, price numeric(24,8) DEFAULT 0,
    price_ttc numeric(24,8) DEFAULT 0, tva_tx numeric(7,4), tosell smallint DEFAULT 1, stock real, UNIQUE (ref, entity));

CREATE TABLE llx_propal (
    rowid serial PRIMARY KEY, ref varchar(30) NOT NULL, entity integer DEFAULT 1 NOT NULL, fk_soc integer,
    tms timestamp DEFAULT now() NOT NULL, datec timestamp, datep date, fk_statut smallint DEFAULT 0 NOT NULL,
    total_ht numeric(24,8) DEFAULT 0, total_tva numeric(24,8) DEFAULT 0, total_ttc numeric(24,8) DEFAULT 0);
CREATE TABLE llx_commande (
    rowid serial PRIMARY KEY, ref varchar(30) NOT NULL, entity integer DEFAULT 1 NOT NULL, fk_soc integer NOT NULL,
    tms timestamp DEFAULT now() NOT NULL, date_creation timestamp, date_commande date, fk_statut smallint DEFAULT 0,
    total_ht numeric(24,8) DEFAULT 0, total_tva numeric(24,8) DEFAULT 0, total_ttc numeric(24,8) DEFAULT 0);
CREATE TABLE llx_commandedet (
    rowid serial PRIMARY KEY, fk_commande integer NOT NULL REFERENCES llx_commande (rowid), fk_product integer,
    description text, tva_tx numeric(7,4), qty real, subprice numeric(24,8), total_ht numeric(24,8), rang integer DEFAULT 0);
CREATE TABLE llx_facture (
    rowid serial PRIMARY KEY, ref varchar(30) NOT NULL, entity integer DEFAULT 1 NOT NULL, ref_client varchar(255),
    type smallint DEFAULT 0 NOT NULL, fk_soc integer NOT NULL REFERENCES llx_societe (rowid), datec timestamp, datef date,
    date_valid date, tms timestamp DEFAULT now() NOT NULL, paye smallint DEFAULT 0 NOT NULL,
    total_tva numeric(24,8) DEFAULT 0, total_ht numeric(24,8) DEFAULT 0, total_ttc numeric(24,8) DEFAULT 0,
    fk_statut smallint DEFAULT 0 NOT NULL, fk_user_author integer, date_lim_reglement date, note_public text,
    model_pdf varchar(255), last_main_doc varchar(255), UNIQUE (ref, entity));
CREATE TABLE llx_facture_extrafields (
    rowid serial PRIMARY KEY, tms timestamp DEFAULT now() NOT NULL, fk_object integer NOT NULL, import_key varchar(14));
CREATE TABLE llx_facturedet (
    rowid serial PRIMARY KEY, fk_facture integer NOT NULL REFERENCES llx_facture (rowid), fk_product integer,
    label varchar(255), description text, tva_tx numeric(7,4), qty real, remise_percent real DEFAULT 0,
    subprice numeric(24,8), total_ht numeric(24,8), total_tva numeric(24,8), total_ttc numeric(24,8),
    date_start timestamp, date_end timestamp, rang integer DEFAULT 0);
CREATE TABLE llx_paiement (
    rowid serial PRIMARY KEY, ref varchar(30), entity integer DEFAULT 1 NOT NULL, datec timestamp,
    tms timestamp DEFAULT now() NOT NULL, datep timestamp, amount numeric(24,8) DEFAULT 0, fk_paiement integer NOT NULL,
    num_paiement varchar(50), note text, fk_bank integer DEFAULT 0 NOT NULL, statut smallint DEFAULT 0 NOT NULL);
CREATE TABLE llx_paiement_facture (
    rowid serial PRIMARY KEY, fk_paiement integer, fk_facture integer, amount numeric(24,8) DEFAULT 0,
    UNIQUE (fk_paiement, fk_facture));
CREATE TABLE llx_bank_account (
    rowid serial PRIMARY KEY, datec timestamp, tms timestamp DEFAULT now() NOT NULL, ref varchar(12) NOT NULL,
    label varchar(50) NOT NULL, entity integer DEFAULT 1 NOT NULL, bank varchar(60), iban_prefix varchar(100),
    fk_pays integer NOT NULL, currency_code varchar(3) NOT NULL);
CREATE TABLE llx_bank (
    rowid serial PRIMARY KEY, datec timestamp, tms timestamp DEFAULT now() NOT NULL, datev date, dateo date,
    amount numeric(24,8) DEFAULT 0 NOT NULL, label varchar(255), fk_account integer REFERENCES llx_bank_account (rowid),
    fk_type varchar(6), rappro smallint DEFAULT 0);
CREATE TABLE llx_bank_url (
    rowid serial PRIMARY KEY, fk_bank integer, url_id integer, url varchar(255), label varchar(255),
    type varchar(24) NOT NULL);
CREATE TABLE llx_accounting_account (
    rowid bigserial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, tms timestamp DEFAULT now() NOT NULL,
    account_number varchar(32) NOT NULL, label varchar(255) NOT NULL, active smallint DEFAULT 1 NOT NULL);
CREATE TABLE llx_accounting_bookkeeping (
    rowid serial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, piece_num integer NOT NULL, doc_date date NOT NULL,
    doc_type varchar(30) NOT NULL, doc_ref varchar(300) NOT NULL, fk_doc integer NOT NULL, fk_docdet integer NOT NULL,
    numero_compte varchar(32) NOT NULL, label_compte varchar(255) NOT NULL, debit numeric(24,8) NOT NULL,
    credit numeric(24,8) NOT NULL, fk_user_author integer NOT NULL, date_creation timestamp,
    tms timestamp DEFAULT now() NOT NULL, code_journal varchar(32) NOT NULL, date_validated timestamp);
CREATE TABLE llx_element_element (
    rowid serial PRIMARY KEY, fk_source integer NOT NULL, sourcetype varchar(64) NOT NULL, fk_target integer NOT NULL,
    targettype varchar(64) NOT NULL);
CREATE TABLE llx_actioncomm (
    id serial PRIMARY KEY, ref varchar(30) NOT NULL, entity integer DEFAULT 1 NOT NULL, datep timestamp, code varchar(50),
    datec timestamp, tms timestamp DEFAULT now() NOT NULL, fk_user_author integer, fk_soc integer,
    percent smallint DEFAULT 0 NOT NULL, label varchar(255) NOT NULL, note text, fk_element integer,
    elementtype varchar(255));
CREATE TABLE llx_ecm_files (
    rowid serial PRIMARY KEY, ref varchar(128), label varchar(128) NOT NULL, entity integer DEFAULT 1 NOT NULL,
    filepath varchar(255) NOT NULL, filename varchar(255) NOT NULL, src_object_type varchar(64), src_object_id integer,
    gen_or_uploaded varchar(12), date_c timestamp, tms timestamp DEFAULT now() NOT NULL,
    UNIQUE (filepath, filename, entity));
CREATE TABLE llx_blockedlog (
    rowid serial PRIMARY KEY, entity integer DEFAULT 1 NOT NULL, date_creation timestamp, action varchar(50),
    amounts numeric(24,8) NOT NULL, ref_object varchar(255), date_object timestamp, user_fullname varchar(255),
    object_data text, signature varchar(100) NOT NULL, element varchar(50), fk_user integer, fk_object integer,
    tms timestamp DEFAULT now() NOT NULL, object_format varchar(16) DEFAULT 'V1');

CREATE INDEX idx_facture_fk_soc ON llx_facture (fk_soc);
CREATE INDEX idx_facturedet_fk_facture ON llx_facturedet (fk_facture);

-- As in Dolibarr, tables with `tms` and no trigger are the ledger, tokens and accounts; line tables have no `tms`.
DO $$
DECLARE one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['const', 'user', 'events', 'cronjob', 'societe', 'socpeople', 'product', 'propal', 'commande',
        'facture', 'facture_extrafields', 'paiement', 'bank_account', 'bank', 'actioncomm', 'ecm_files', 'blockedlog']
    LOOP
        EXECUTE format('CREATE TRIGGER update_customer_modtime BEFORE UPDATE ON llx_%s FOR EACH ROW '
            'EXECUTE FUNCTION update_modified_column_tms()', one);
    END LOOP;
END $$;
