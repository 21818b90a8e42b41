//! Splits the SQL that pg_dump writes into an archive into statements, recognises them by their beginnings, and reads
//! or replaces the names in them.
//!
//! A statement is never run just because an archive contains it: only statements with a known beginning are run, each
//! one separately.

use squawk_lexer::LiteralKind::{BitStr, ByteStr, DollarQuotedString, EscStr, NationalStr, Str, UnicodeEscStr};
use squawk_lexer::TokenKind::{self, BlockComment, Ident, LineComment, Literal, QuotedIdent, Semi, Whitespace};

/// One statement: its tokens, each with its source text, without the semicolon and leading whitespace. A comment is
/// whitespace.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement(Vec<(TokenKind, String)>);

/// Splits a text into statements. `None` if it ends within a string, a quoted name or a comment.
pub(super) fn statements(text: &str) -> Option<Vec<Statement>> {
    let (mut rest, mut tokens) = (text, Vec::new());
    for token in squawk_lexer::tokenize(text) {
        let (text, after) = rest.split_at_checked(token.len as usize)?;
        rest = after;
        tokens.push(match token.kind {
            LineComment | BlockComment { terminated: true } => (Whitespace, " ".to_owned()),
            kind if ends(kind) => (kind, text.to_owned()),
            _ => return None,
        });
    }
    let parts = tokens.split(|(kind, _)| *kind == Semi);
    let statements =
        parts.map(|part| Statement(part.iter().skip_while(|(kind, _)| *kind == Whitespace).cloned().collect()));
    Some(statements.filter(|statement| !statement.0.is_empty()).collect())
}

/// Whether the token ends before the text does.
const fn ends(kind: TokenKind) -> bool {
    match kind {
        BlockComment { terminated }
        | QuotedIdent { terminated, .. }
        | Literal {
            kind:
                Str { terminated }
                | NationalStr { terminated }
                | ByteStr { terminated }
                | BitStr { terminated }
                | DollarQuotedString { terminated }
                | UnicodeEscStr { terminated }
                | EscStr { terminated },
        } => terminated,
        _ => true,
    }
}

/// The text between quotes, in which a quote is doubled.
fn unquoted(text: &str, quote: char) -> Option<String> {
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace(&format!("{quote}{quote}"), &quote.to_string()))
}

/// The name in a token: a word, or the text between double quotes.
fn name((kind, text): &(TokenKind, String)) -> Option<String> {
    match kind {
        Ident => Some(text.to_ascii_lowercase()),
        QuotedIdent { uescape: false, .. } => unquoted(text, '"'),
        _ => None,
    }
}

impl Statement {
    /// The tokens that are not whitespace, with their indexes.
    fn significant(&self) -> impl Iterator<Item = (usize, &(TokenKind, String))> {
        self.0.iter().enumerate().filter(|(_, (kind, _))| *kind != Whitespace)
    }

    /// The index of the token after the first occurrence of these unquoted keywords.
    fn after(&self, keywords: &str) -> Option<usize> {
        let tokens: Vec<_> = self.significant().collect();
        let wanted: Vec<&str> = keywords.split(' ').collect();
        let is_keyword =
            |(kind, text): &(TokenKind, String), keyword: &str| *kind == Ident && text.eq_ignore_ascii_case(keyword);
        let found = tokens
            .windows(wanted.len() + 1)
            .find(|window| window.iter().zip(&wanted).all(|((_, token), keyword)| is_keyword(token, keyword)));
        found.and_then(|window| window.last()).map(|(index, _)| *index)
    }

    /// Whether the statement begins with these keywords and continues after them.
    pub(super) fn begins(&self, keywords: &str) -> bool {
        let first = self.significant().nth(keywords.split(' ').count()).map(|(index, _)| index);
        first.is_some() && self.after(keywords) == first
    }

    /// Whether these keywords occur anywhere in the statement.
    pub(super) fn has(&self, keywords: &str) -> bool {
        let words = self.significant().filter(|(_, (kind, _))| *kind == Ident);
        words.map(|(_, (_, text))| text.to_ascii_uppercase()).collect::<Vec<_>>().join(" ").contains(keywords)
    }

    /// The name after these keywords.
    pub(super) fn name_after(&self, keywords: &str) -> Option<String> {
        name(self.0.get(self.after(keywords)?)?)
    }

    /// The names after these keywords, up to the first token that is neither a name nor a comma.
    pub(super) fn names_after(&self, keywords: &str) -> Vec<String> {
        let Some(begin) = self.after(keywords) else { return Vec::new() };
        // After these keywords comes an expression, which may contain anything.
        if ["USING", "WITH CHECK"].iter().filter_map(|limit| self.after(limit)).any(|limit| limit < begin) {
            return Vec::new();
        }
        let (mut names, mut expected) = (Vec::new(), true);
        for (_, token) in self.significant().skip_while(|(index, _)| *index < begin) {
            match (token, expected) {
                ((TokenKind::Comma, _), false) => expected = true,
                (token, true) => match name(token) {
                    Some(name) => {
                        names.push(name);
                        expected = false;
                    }
                    None => break,
                },
                _ => break,
            }
        }
        names
    }

    /// The statement with the name after these keywords replaced by another one, which is already quoted.
    pub(super) fn with_name_after(&self, keywords: &str, quoted: &str) -> Option<String> {
        let position = self.after(keywords)?;
        let text = |(at, (_, text)): (usize, &(TokenKind, String))| {
            if at == position { quoted.to_owned() } else { text.clone() }
        };
        Some(self.0.iter().enumerate().map(text).collect::<String>().trim_end().to_owned())
    }

    /// The source text of the statement.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned()
    }

    /// The value of `KEY = value`, which is a string or a word, and whether it is a string.
    pub(super) fn option(&self, key: &str) -> Option<(String, bool)> {
        let mut tokens = self.0.get(self.after(key)?..)?.iter().filter(|(kind, _)| *kind != Whitespace);
        if tokens.next()?.0 != TokenKind::Eq {
            return None;
        }
        match tokens.next()? {
            (Literal { kind: Str { .. } }, text) => Some((unquoted(text, '\'')?, true)),
            // In such a string, pg_dump doubles backslashes and quotes, and escapes nothing else.
            (Literal { kind: EscStr { .. } }, text) => {
                Some((unquoted(text.get(1..)?, '\'')?.replace("\\\\", "\\"), true))
            }
            (Ident, text) => Some((text.clone(), false)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        statements(text).unwrap().remove(0)
    }

    #[test]
    fn semicolons_in_strings_and_names_do_not_split_a_statement() {
        let text = "-- a comment; with a semicolon\nALTER DATABASE \"a;b\" SET search_path TO 'x;y', \"$user\";\n\nGRANT CONNECT ON DATABASE \"a;b\" TO app;\n";
        let found = statements(text).unwrap();
        let texts: Vec<_> = found.iter().map(Statement::text).collect();
        assert_eq!(
            texts,
            ["ALTER DATABASE \"a;b\" SET search_path TO 'x;y', \"$user\"", "GRANT CONNECT ON DATABASE \"a;b\" TO app"]
        );
        for open in ["SELECT 'never closed", "SELECT \"a", "/* a", "SELECT $x$ a; $y$", "SELECT E'a\\'"] {
            assert_eq!(statements(open), None, "{open}");
        }
        assert_eq!(statements(" ;; -- nothing\n"), Some(Vec::new()));
    }

    #[test]
    fn a_name_is_read_and_replaced_wherever_it_is_and_however_it_is_quoted() {
        let set = one("ALTER DATABASE \"Œuvre \"\"x\"\"\" SET \"DateStyle\" TO 'ISO, DMY'");
        assert!(set.begins("ALTER DATABASE") && !set.begins("ALTER ROLE") && !set.begins("DATABASE"));
        assert_eq!(set.name_after("ALTER DATABASE").as_deref(), Some("Œuvre \"x\""));
        assert_eq!(
            set.with_name_after("ALTER DATABASE", "\"new\"").as_deref(),
            Some("ALTER DATABASE \"new\" SET \"DateStyle\" TO 'ISO, DMY'")
        );
        let role = one("ALTER ROLE \"IN DATABASE\" IN DATABASE erp SET work_mem TO '8MB';");
        assert_eq!(
            role.with_name_after("IN DATABASE", "\"n\"").unwrap(),
            "ALTER ROLE \"IN DATABASE\" IN DATABASE \"n\" SET work_mem TO '8MB'"
        );
        let escaped = one("ALTER DATABASE erp SET a.b TO E'it''s \\\\ x'");
        assert!(
            escaped.with_name_after("ALTER DATABASE", "x").unwrap().ends_with("TO E'it''s \\\\ x'"),
            "{}",
            escaped.text()
        );
    }

    #[test]
    fn the_roles_of_a_policy_end_at_its_condition() {
        let policy =
            one("CREATE POLICY \" TO x\" ON public.t FOR SELECT TO app, \"Odd, one\" USING ((who = 'TO y'::text));");
        assert_eq!(policy.names_after("TO"), ["app", "Odd, one"]);
        assert_eq!(one("CREATE POLICY p ON public.t USING ((a = 1))").names_after("TO"), [""; 0]);
        let interval = one("CREATE POLICY p ON public.t USING ((i = (x)::interval day to second))");
        assert_eq!(interval.names_after("TO"), [""; 0]);
    }

    #[test]
    fn options_are_strings_or_words() {
        let made = one(
            "CREATE DATABASE erp WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C.UTF-8' ICU_LOCALE = 'fr-FR';",
        );
        assert_eq!(made.option("ENCODING"), Some(("UTF8".to_owned(), true)));
        assert_eq!(made.option("LOCALE_PROVIDER"), Some(("icu".to_owned(), false)));
        assert_eq!(made.option("LOCALE"), Some(("C.UTF-8".to_owned(), true)));
        assert_eq!(made.option("ICU_LOCALE"), Some(("fr-FR".to_owned(), true)));
        assert_eq!(made.option("LC_CTYPE"), None);
        let odd = one("CREATE DATABASE erp WITH LOCALE = E'it''s \\\\ x' /* and */ ICU_RULES = '&a < \\'");
        assert_eq!(odd.option("LOCALE"), Some((r"it's \ x".to_owned(), true)));
        assert_eq!(odd.option("ICU_RULES"), Some((r"&a < \".to_owned(), true)));
    }
}
