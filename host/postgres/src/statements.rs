//! Splits the SQL that pg_dump writes into an archive into statements, recognises them by their beginnings, and reads
//! or replaces the names in them.
//!
//! A statement is never run just because an archive contains it: only statements with a known beginning are run, each
//! one separately.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Token, Tokenizer};

/// One statement: its tokens, each with its source text, without the semicolon, comments and leading whitespace.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement(Vec<(Token, String)>);

/// Splits a text into statements. `None` if it cannot be tokenized.
pub(super) fn statements(text: &str) -> Option<Vec<Statement>> {
    let found = Tokenizer::new(&PostgreSqlDialect {}, text).with_unescape(false).tokenize_with_location().ok()?;
    let offsets: Vec<usize> = byte_offsets(text, found.iter().map(|token| token.span.start)).collect();
    let ends = offsets.iter().skip(1).copied().chain([text.len()]);
    let texts = offsets.iter().zip(ends).map(|(begin, end)| text.get(*begin..end).unwrap_or_default().to_owned());
    let tokens: Vec<(Token, String)> = found.iter().map(|token| token.token.clone()).zip(texts).collect();
    let parts = tokens.split(|(token, _)| *token == Token::SemiColon);
    let statements = parts.map(|part| {
        let is_comment = |token: &Token| {
            use sqlparser::tokenizer::Whitespace::{MultiLineComment, SingleLineComment};
            matches!(token, Token::Whitespace(SingleLineComment { .. } | MultiLineComment(_)))
        };
        let rest = part.iter().filter(|(token, _)| !is_comment(token));
        Statement(rest.skip_while(|(token, _)| matches!(token, Token::Whitespace(_))).cloned().collect())
    });
    Some(statements.filter(|statement| !statement.0.is_empty()).collect())
}

/// Converts ascending positions, given by line and column, to byte offsets in the text.
fn byte_offsets(text: &str, locations: impl Iterator<Item = Location>) -> impl Iterator<Item = usize> {
    let mut here = Location { line: 1, column: 1 };
    let mut rest = text.char_indices();
    locations.map(move |wanted| {
        while (here.line, here.column) < (wanted.line, wanted.column) {
            match rest.next() {
                Some((_, '\n')) => here = Location { line: here.line + 1, column: 1 },
                Some(_) => here.column += 1,
                None => break,
            }
        }
        rest.offset()
    })
}

/// The name in a token: a word, or the text between double quotes.
fn name(token: &Token) -> Option<String> {
    let Token::Word(word) = token else { return None };
    Some(match word.quote_style {
        Some(quote) => word.value.replace(&format!("{quote}{quote}"), &quote.to_string()),
        None => word.value.to_lowercase(),
    })
}

impl Statement {
    /// The tokens that are not whitespace, with their indexes.
    fn significant(&self) -> impl Iterator<Item = (usize, &Token)> {
        let tokens = self.0.iter().map(|(token, _)| token).enumerate();
        tokens.filter(|(_, token)| !matches!(token, Token::Whitespace(_)))
    }

    /// The index of the token after the first occurrence of these unquoted keywords.
    fn after(&self, keywords: &str) -> Option<usize> {
        let tokens: Vec<(usize, &Token)> = self.significant().collect();
        let wanted: Vec<&str> = keywords.split(' ').collect();
        let is_keyword = |token: &Token, keyword: &str| match token {
            Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword),
            _ => false,
        };
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
        let words = self.significant().filter_map(|(_, token)| match token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        });
        words.collect::<Vec<_>>().join(" ").contains(keywords)
    }

    /// The name after these keywords.
    pub(super) fn name_after(&self, keywords: &str) -> Option<String> {
        name(&self.0.get(self.after(keywords)?)?.0)
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
                (Token::Comma, false) => expected = true,
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
        // Whitespace is a separate token, so the source text of a word is exactly the word.
        let text =
            |(at, (_, text)): (usize, &(Token, String))| if at == position { quoted.to_owned() } else { text.clone() };
        Some(self.0.iter().enumerate().map(text).collect::<String>().trim_end().to_owned())
    }

    /// The source text of the statement.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned()
    }

    /// The value of `KEY = value`, which is a string or a word, and whether it is a string.
    pub(super) fn option(&self, key: &str) -> Option<(String, bool)> {
        let rest = self.0.get(self.after(key)?..)?.iter().map(|(token, _)| token);
        let mut tokens = rest.filter(|token| !matches!(token, Token::Whitespace(_)));
        if tokens.next() != Some(&Token::Eq) {
            return None;
        }
        match tokens.next()? {
            Token::SingleQuotedString(text) => Some((text.replace("''", "'"), true)),
            Token::EscapedStringLiteral(text) => Some((text.clone(), true)),
            Token::Word(word) => Some((word.value.clone(), false)),
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
        assert_eq!(statements("SELECT 'never closed"), None);
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
    }
}
