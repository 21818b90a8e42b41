//! What both `dump` and `fingerprint` know about Dolibarr's documents.

/// What Dolibarr generates and can generate again, for the main company and for those in numbered folders: logs beside
/// the modules' folders, work folders of modules and users, page previews, its own archives of the documents (each
/// would contain the earlier ones) and its database dumps. Users may create a file `server.log` or a folder `temp` in
/// the file managers (`ecm`, `medias`), so these are saved.
///
/// `dump` leaves them out of the archive, and `fingerprint` does not count them: the host trusts a fingerprint only for
/// what the archive holds.
pub const EXCLUDE: [&str; 21] = [
    "/*.log",
    "/[0-9]*/*.log",
    "/[!em]*/temp/",
    "/e[!c]*/temp/",
    "/m[!e]*/temp/",
    "/ec[!m]*/temp/",
    "/me[!d]*/temp/",
    "/[0-9]*/[!em]*/temp/",
    "/[0-9]*/e[!c]*/temp/",
    "/[0-9]*/m[!e]*/temp/",
    "/[0-9]*/ec[!m]*/temp/",
    "/[0-9]*/me[!d]*/temp/",
    "/expedition/*/temp/",
    "/reception/*/temp/",
    "/users/*/temp/",
    "/[0-9]*/users/*/temp/",
    "*.pdf_preview-*.png",
    "admin/documents",
    "admin/backup",
    "[0-9]*/admin/documents",
    "[0-9]*/admin/backup",
];

/// Why a list `exclude` is invalid.
pub fn objection_to_exclude(globs: &[String]) -> Option<String> {
    if globs.iter().any(|glob| glob.trim().is_empty()) {
        return Some("`exclude` has an empty entry".into());
    }
    let negated = globs.iter().find(|glob| glob.starts_with(['!', '#']))?;
    Some(format!("`exclude` has `{negated}`: a glob that begins with ! or # excludes nothing"))
}
