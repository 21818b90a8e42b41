//! Statements as pg_dump writes them into an archive: split, recognised by how they begin, and the names in them read or exchanged.
//!
//! Nothing of an archive is run because it stands there: a statement is run whose beginning is known, each by itself.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Token, Tokenizer};

/// One statement, without its semicolon, comments and what stands before it: its tokens, each with the text that it is read from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement(Vec<(Token, String)>);

/// Splits a text into statements. None where it cannot be read.
pub(super) fn statements(text: &str) -> Option<Vec<Statement>> {
    let found = Tokenizer::new(&PostgreSqlDialect {}, text).with_unescape(false).tokenize_with_location().ok()?;
    let places: Vec<usize> = places(text, found.iter().map(|token| token.span.start)).collect();
    let ends = places.iter().skip(1).copied().chain([text.len()]);
    let texts = places.iter().zip(ends).map(|(begin, end)| text.get(*begin..end).unwrap_or_default().to_owned());
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

/// Where places that are given by line and column, each after the one before, are in the text's bytes.
fn places(text: &str, locations: impl Iterator<Item = Location>) -> impl Iterator<Item = usize> {
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

/// The name that a token is: a word, or what stands between double quotes.
fn name(token: &Token) -> Option<String> {
    let Token::Word(word) = token else { return None };
    Some(match word.quote_style {
        Some(quote) => word.value.replace(&format!("{quote}{quote}"), &quote.to_string()),
        None => word.value.to_lowercase(),
    })
}

impl Statement {
    /// The tokens that are no blanks, with their places.
    fn solid(&self) -> impl Iterator<Item = (usize, &Token)> {
        let tokens = self.0.iter().map(|(token, _)| token).enumerate();
        tokens.filter(|(_, token)| !matches!(token, Token::Whitespace(_)))
    }

    /// The place right behind the first occurrence of some keywords, which are never quoted.
    fn after(&self, keywords: &str) -> Option<usize> {
        let solid: Vec<(usize, &Token)> = self.solid().collect();
        let wanted: Vec<&str> = keywords.split(' ').collect();
        let is = |token: &Token, keyword: &str| matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword));
        let found = solid
            .windows(wanted.len() + 1)
            .find(|window| window.iter().zip(&wanted).all(|((_, token), keyword)| is(token, keyword)));
        found.and_then(|window| window.last()).map(|(place, _)| *place)
    }

    /// Whether it begins with some keywords and goes on.
    pub(super) fn begins(&self, keywords: &str) -> bool {
        let first = self.solid().nth(keywords.split(' ').count()).map(|(place, _)| place);
        first.is_some() && self.after(keywords) == first
    }

    /// Whether some keywords stand in it anywhere.
    pub(super) fn has(&self, keywords: &str) -> bool {
        let words = self.solid().filter_map(|(_, token)| match token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        });
        words.collect::<Vec<_>>().join(" ").contains(keywords)
    }

    /// The name behind some keywords.
    pub(super) fn name_after(&self, keywords: &str) -> Option<String> {
        name(&self.0.get(self.after(keywords)?)?.0)
    }

    /// The names behind some keywords, up to what is neither a name nor a comma.
    pub(super) fn names_after(&self, keywords: &str) -> Vec<String> {
        let Some(begin) = self.after(keywords) else { return Vec::new() };
        // What comes after is an expression, in which anything may stand.
        if ["USING", "WITH CHECK"].iter().filter_map(|limit| self.after(limit)).any(|limit| limit < begin) {
            return Vec::new();
        }
        let (mut names, mut expected) = (Vec::new(), true);
        for (_, token) in self.solid().skip_while(|(place, _)| *place < begin) {
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

    /// The same with another name behind some keywords, already quoted.
    pub(super) fn with_name_after(&self, keywords: &str, quoted: &str) -> Option<String> {
        let place = self.after(keywords)?;
        // A word is followed by what is no part of it, so its text is the word.
        let text =
            |(at, (_, text)): (usize, &(Token, String))| if at == place { quoted.to_owned() } else { text.clone() };
        Some(self.0.iter().enumerate().map(text).collect::<String>().trim_end().to_owned())
    }

    /// As it is written.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned()
    }

    /// The value of `KEY = value`: a text or a word, with whether it is a text.
    pub(super) fn option(&self, key: &str) -> Option<(String, bool)> {
        let rest = self.0.get(self.after(key)?..)?.iter().map(|(token, _)| token);
        let mut solid = rest.filter(|token| !matches!(token, Token::Whitespace(_)));
        if solid.next() != Some(&Token::Eq) {
            return None;
        }
        match solid.next()? {
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
    fn a_text_is_split_at_semicolons_that_are_no_part_of_a_text_or_a_name() {
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
    fn a_name_is_read_and_exchanged_wherever_it_stands_and_however_it_is_quoted() {
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
    fn roles_of_a_policy_are_named_up_to_its_condition() {
        let policy =
            one("CREATE POLICY \" TO x\" ON public.t FOR SELECT TO app, \"Odd, one\" USING ((who = 'TO y'::text));");
        assert_eq!(policy.names_after("TO"), ["app", "Odd, one"]);
        assert_eq!(one("CREATE POLICY p ON public.t USING ((a = 1))").names_after("TO"), [""; 0]);
        let interval = one("CREATE POLICY p ON public.t USING ((i = (x)::interval day to second))");
        assert_eq!(interval.names_after("TO"), [""; 0]);
    }

    #[test]
    fn options_are_texts_or_words() {
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
